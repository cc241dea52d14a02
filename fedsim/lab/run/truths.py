"""What clients of somebody else's project trained on, as a file says that the auditor holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from typing_extensions import override

from clients.corpus import clinic
from clients.formats import FILES, kind_of, read_file
from clients.holdings import encode
from clients.values import blank, meant
from fedsim import limits
from fedsim.captures import Captured
from fedsim.errors import BadInput, quote, shown
from fedsim.models import ModelAdapter
from fedsim.types import Tokens
from fedsim.vault.reader import Truth, Truths

KEY = "--truth"
COLUMNS = ("text", "client", "node", "round", "label")
TABLES = tuple(kind for kind in FILES if kind != ".txt")
POOL = 512  # unrelated sentences, for the no-gradient control


@dataclass(frozen=True)
class TruthFile(Truths):
    """The texts of each client, of one round or of all: what a vault is for a run of ours."""

    examples: Mapping[tuple[int | None, int], Truth]  # by round (None: of all) and client

    @override
    def _one(self, round_: int, client: int) -> Truth | None:
        return self.examples.get((round_, client), self.examples.get((None, client)))


def read_truths(
    path: Path, adapter: ModelAdapter, nodes: Mapping[int, int], max_length: int
) -> TruthFile:
    """Return what a file says that the clients of captures trained on.

    Args:
        path: csv, tsv, jsonl or parquet with the columns ``text`` and ``client`` or ``node``, and
            maybe ``round`` and ``label``.
        adapter: its tokenizer reads the texts.
        nodes: the client of each of Flower's nodes, as the captures number them.
        max_length: tokens that the project cuts a text to.

    Raises:
        BadInput: there is no such file, or it says no such thing; one line.
    """
    frame = _table(path)
    columns = {name: list(frame[name]) for name in COLUMNS if name in frame.columns}
    if "text" not in columns or not {"client", "node"} & set(columns):
        raise BadInput(
            f"{KEY}: {str(path)!r} needs the columns text and client (or node), and may have round "
            f"and label; got {quote(', '.join(map(str, frame.columns)))}"
        )
    numbers = {name: _whole(columns[name], name, path) for name in columns if name != "text"}
    clients = _clients(numbers, nodes, path)
    rounds = numbers.get("round", [None] * len(clients))
    labels = numbers.get("label", [None] * len(clients))
    rows: dict[tuple[int | None, int], list[tuple[str, int | None]]] = {}
    for place, (text, client) in enumerate(zip(columns["text"], clients, strict=True)):
        if not isinstance(text, str) or not text.strip():
            raise BadInput(f"{KEY}: {str(path)!r} has no text in row {place + 1}")
        if client is not None:
            rows.setdefault((rounds[place], client), []).append((text, labels[place]))
    most = min(max_length, adapter.positions)
    examples = {}
    for key, some in rows.items():
        read = encode(adapter, [text for text, _ in some], [label for _, label in some], most)
        examples[key] = Truth(sequences=read.sequences, labels=read.labels)
    return TruthFile(examples)


def _table(path: Path) -> pd.DataFrame:
    """Return the rows of a file, or of all that TruthNotes wrote into a directory."""
    if path.is_dir():
        notes = sorted(path.glob("node=*.jsonl"))
        if not notes:
            raise BadInput(f"{KEY}: the directory {str(path)!r} holds no node=N.jsonl")
        return pd.concat([_table(note) for note in notes], ignore_index=True)
    if kind_of(path.name) not in TABLES:
        raise BadInput(
            f"{KEY}: wanted a file of {', '.join(TABLES)}, or a directory of TruthNotes, got "
            f"{str(path)!r}"
        )
    return read_file(path, key=KEY)


def _whole(cells: Sequence[Any], name: str, path: Path) -> list[int | None]:
    """Return cells as whole numbers; a blank one says nothing."""
    found: list[int | None] = []
    for row, cell in enumerate(meant(cells), start=1):
        if blank(cell):
            found.append(None)
            continue
        number = isinstance(cell, int | float | Decimal | np.number) and not isinstance(cell, bool)
        least = -limits.INTEGER if name == "label" else 0
        if not number or not least <= cell < 2**64 or cell != int(cell):
            raise BadInput(
                f"{KEY}: {str(path)!r} needs whole numbers as {name}, got {quote(shown(cell))} in "
                f"row {row}"
            )
        found.append(int(cell))
    return found


def _clients(
    numbers: Mapping[str, list[int | None]], nodes: Mapping[int, int], path: Path
) -> list[int | None]:
    """Return the client of each row, as the captures number them; None: none that was captured.

    A client that took no part, or failed, has notes and no capture.
    """
    if "node" not in numbers:
        if None in numbers["client"]:
            raise BadInput(f"{KEY}: {str(path)!r} names no client in some row")
        return numbers["client"]
    clients = [nodes.get(cast(int, node)) for node in numbers["node"]]
    if all(client is None for client in clients):
        known = ", ".join(map(str, nodes)) or "none"
        raise BadInput(
            f"{KEY}: {str(path)!r} names the node {numbers['node'][0]} and no other of which "
            f"anything was captured; captured were {known}"
        )
    return clients


def miscount(captured: Captured, truths: Truths) -> list[str]:
    """Return in words that a client states fewer examples than the truth has; []: it does not."""
    stated = captured.update.num_examples
    truth = truths.truth(captured.round, *captured.clients)
    if truth is None or not 0 < stated < len(truth.sequences):
        return []
    return [
        f"Client {captured.client} states {stated} examples in round {captured.round} where the "
        f"truth has {len(truth.sequences)}, and an attack looks for no more than are stated: if "
        "the project counts mini-batches, say data.num_examples=0 (not known)."
    ]


def public_pool(adapter: ModelAdapter, max_length: int) -> list[Tokens]:
    """Return sentences that no client of a foreign project holds, for the no-gradient control."""
    texts = list(dict.fromkeys(text for text, _ in clinic()))[:POOL]
    return list(encode(adapter, texts, [0] * len(texts), max_length).sequences)
