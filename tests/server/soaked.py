"""A project of messages laid out at random, run with a tap and without."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedsim.captures import find_captures, read_capture, read_notes
from server import Capture, TapGrid
from tests.server.layouts import Answers, Project

EACH = 4  # rounds of a project
WAYS = ("at once", "shared", "threads", "pull")


def plain(message: Message) -> Any:
    """Return all that a reply says, as plain values."""
    if message.has_error():
        return message.metadata.src_node_id, message.error.code, message.error.reason
    return message.metadata.src_node_id, {
        key: {name: (a.dtype, a.shape, a.stype, a.data) for name, a in record.items()}
        if isinstance(record, ArrayRecord)
        else repr(dict(record))  # NaN is itself
        for key, record in message.content.items()
    }


def exchanged(grid: Grid, messages: list[Message], way: str) -> list[Message]:
    """Send ``messages`` as one of Flower's APIs does."""
    if way == "pull":
        return list(grid.pull_messages(grid.push_messages(messages)))
    if way != "threads":
        return list(grid.send_and_receive(messages))
    with ThreadPoolExecutor(4) as threads:
        calls = threads.map(lambda m: list(grid.send_and_receive(messages=[m])), messages)
    return [reply for replies in calls for reply in replies]


def aggregate(round_: int, replies: list[Message]) -> Any:
    """Return what FedAvg makes of the replies, or the error that it ends in."""
    try:
        arrays, metrics = FedAvg().aggregate_train(round_, replies)
    except Exception as error:
        return type(error).__name__, str(error)
    return arrays and {k: a.data for k, a in arrays.items()}, repr(metrics)


def project(seed: int, root: Path) -> tuple[list[str], Counter[str]]:
    """Run one project with the tap and without; return what differs, and what was seen."""
    wrong, counts, got = list[str](), Counter[str](), list[Any]()
    for tapped in (True, False):
        laid = Project(seed)
        replies: dict[tuple[int, int], Any] = {}
        inner = Answers(replies)
        grid: Grid = TapGrid(inner, [Capture(root)]) if tapped else inner
        way, said = laid.draw.choice(WAYS), list[Any]()
        for round_ in range(1, EACH + 1):
            inner.round = round_
            messages = laid.messages(round_, shared=way == "shared")
            for message in messages:
                node = message.metadata.dst_node_id
                replies[round_, node] = laid.reply(round_, node)
            answers = exchanged(grid, messages, way)
            said.append([plain(reply) for reply in answers])
            said.append(aggregate(round_, answers))
        got.append(repr(said))
    if got[0] != got[1]:
        wrong.append(f"project {seed}: the tap changed what was got")
    wrong += [f"project {seed}: {line}" for line in missed(root, laid)]
    counts.update(notes=len(read_notes(root)), right=len(laid.right))
    counts.update(captures=len(list(root.glob("*/*/observation.json"))))
    return wrong, counts


def missed(root: Path, laid: Project) -> list[str]:
    """Return what of the right replies was not captured as it was."""
    found = {}
    for where in find_captures(root) if any(root.glob("*/*/observation.json")) else []:
        record = read_capture(where)
        found[where.round, record.node] = record.update.num_examples
    return [
        f"round {round_}, node {node}: wanted {count} examples, got {found.get((round_, node))}"
        for (round_, node), count in laid.right.items()
        if found.get((round_, node)) != count
    ]
