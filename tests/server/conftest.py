"""A Flower grid whose nodes are plain functions: no model, no engine, nothing of the clients."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from torch import Tensor

from fedsim.flower import empty_run, set_identity, stamp
from fedsim.messages import Update
from fedsim.tap.keys import sent_round
from fedsim.wire import to_tensors, update_content

Answer = Callable[[Message], RecordDict | Error | None]  # None: too slow, no reply at all


class ToyGrid(Grid):
    """Hands each message to its node's function; replies come as a generator, the last one first.

    So nothing can lean on their order, and whoever reads them twice finds them gone.
    """

    def __init__(self, nodes: Mapping[int, Answer]) -> None:
        self.nodes = dict(nodes)
        self.asked: list[Message] = []
        self.trained: list[tuple[int | None, int]] = []  # (round as told, node) of training
        self._run = empty_run()
        self._serial = itertools.count(1)
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            stamp(message, f"m{next(self._serial)}")
            ids.append(message.metadata.message_id)
            self.asked.append(message)
            if message.metadata.message_type == "train":  # noted now: Flower rewrites its record
                self.trained.append((sent_round(message.content), message.metadata.dst_node_id))
            if (reply := self._answer(message)) is not None:
                stamp(reply, f"r{next(self._serial)}")
                self._replies[ids[-1]] = reply
        return ids

    def _answer(self, message: Message) -> Message | None:
        answer = self.nodes[message.metadata.dst_node_id](message)
        if isinstance(answer, Error):
            # The link answers for a dead node: the source is the link, not the node.
            link = Message(RecordDict(), 1, message.metadata.message_type)
            stamp(link, message.metadata.message_id)
            return Message(answer, reply_to=link)
        return None if answer is None else Message(answer, reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        replies = list(self.pull_messages(self.push_messages(messages)))
        return (reply for reply in reversed(replies))


def towards(
    target: Mapping[str, Tensor], *, examples: int = 1, kind: str = "delta", step: float = 0.5
) -> Answer:
    """A client of the problem min ||w - target||² / 2: it sends w - target, or a step along it."""

    def answer(message: Message) -> Update | RecordDict:
        (sent,) = message.content.array_records.values()
        gradient = {name: w - target[name] for name, w in to_tensors(sent).items()}
        loss = sum(g.square().sum().item() / 2 for g in gradient.values())
        update = gradient if kind == "gradient" else {k: -step * g for k, g in gradient.items()}
        return update_content(
            Update(
                tensors=update,
                kind=kind,  # type: ignore[arg-type]
                num_examples=examples,
                metrics={"train_loss": loss},
            )
        )

    return answer  # type: ignore[return-value]


def weights(seed: int) -> dict[str, Tensor]:
    """Two small tensors whose names are not in alphabetical order, as a model's seldom are."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"w.weight": (3, 5), "w.bias": (5,), "a.weight": (2,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    set_identity()  # without it no Message can be made outside a running app
    logging.getLogger("flwr").setLevel(logging.ERROR)
    # Some of Flower's strategies look for garbage with each reply, among all that the tests hold.
    monkeypatch.setattr("flwr.app.message.arrayrecord.gc.collect", lambda: 0)
