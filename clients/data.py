"""The clients' text: read, cleaned, part of it held out, the rest divided among the clients."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pandas as pd

from clients.decoding import UTF8, check_encoding
from clients.named import Rows, find_rows
from clients.partitions import PARTITIONS, PARTITIONS_BY_COLUMN, divide
from clients.texts import TextSource, need_unicode, text_source
from clients.values import meant, numbered
from fedsim.errors import BadInput, quote, unknown


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which text, and how it is divided: the [data] table of a config."""

    name: str  # cola | sst2 | rotten_tomatoes | wikitext2 | builtin:clinic | hub id | a file
    path: str = ""  # a folder with the raw files of a named data set; "": from the hub
    partition: str = "iid"  # a key of PARTITIONS
    alpha: float = 0.5  # Dirichlet concentration, > 0; the smaller, the more the clients differ
    partition_by: str = "label"  # the column that PARTITIONS_BY_COLUMN go by
    text_column: str = ""  # "": text, sentence or prompt, or else the only column of strings
    template: str = ""  # alpaca | chat | a file; "": what the columns are called tells
    label_column: str = ""  # "": label, if there is one
    encoding: str = UTF8  # of a file of text
    evaluate: int = 128  # held-out examples, at most; 0: none
    reserve: int = 0  # texts like the clients' that none of them holds, at most; a third at most

    def __post_init__(self) -> None:
        """Refuse what no data could make right."""
        if self.partition not in PARTITIONS:
            raise BadInput(unknown("data.partition", self.partition, PARTITIONS))
        if not 0.0 < self.alpha < math.inf:
            raise BadInput(f"data.alpha must be a positive number, got {self.alpha}")
        if self.evaluate < 0:
            raise BadInput(f"data.evaluate must be at least 0, got {self.evaluate}")
        if self.reserve < 0:
            raise BadInput(f"data.reserve must be at least 0, got {self.reserve}")
        check_encoding(self.encoding)
        if self.template and self.text_column:
            raise BadInput(
                f"data.template {self.template!r} makes the texts, so data.text_column must not be "
                f"given, got {self.text_column!r}"
            )


@dataclass(frozen=True)
class Corpus:
    """Columns "text", never blank, and "label", if the data has labels: 0 to len(label_names) - 1.

    Where the partition goes by another column, ``train`` has that one too, its values numbered
    in sorted order.
    """

    train: datasets.Dataset
    held_out: datasets.Dataset
    label_names: tuple[str, ...]  # () when the data has no labels
    columns: tuple[str, ...] = ()  # all that the data has, under its own names
    chat: bool = False  # each text is a conversation, see clients.chat
    note: str = ""  # what a reader must know of how texts were made
    response: str = ""  # the text that a response follows, in every text; "": nothing marks one
    reserved: datasets.Dataset | None = None  # texts of train's kind that nobody trains on


def load_corpus(settings: DataSettings, seed: int) -> Corpus:
    """Read the data and hold out ``settings.evaluate`` rows, drawn by ``seed``.

    They come from the data's own development split. Where it has none they come from its rows,
    no text twice, and further rows with a text that is held out are dropped.

    Raises:
        BadInput: the data cannot be found, read or used as the settings say.
    """
    rows = find_rows(settings.name, settings.path, settings.encoding)
    columns = _columns(rows, settings)
    source = text_source(rows, settings.template, settings.text_column, columns.get("label", ""))
    train = _clean(rows.train, source, columns, settings.name)
    generator = np.random.default_rng(seed)
    if rows.held_out is None:
        train, held_out = _split(train, settings, generator)
    else:
        held_out = _clean(rows.held_out, source, columns, settings.name)
        held_out = held_out.sample(min(settings.evaluate, len(held_out)), random_state=generator)
    train, reserved = _reserve(train, settings.reserve, generator)
    both = pd.concat([train, held_out, reserved])
    label_names: tuple[str, ...] = ()
    for column, origin in columns.items():
        if column == "label":
            names = rows.label_names.get(origin, ())
            what = f"data.label_column {origin!r}"
            cells = both[column]
            values: Iterable[Any] = meant(list(cells)) if rows.untyped else cells
            both[column], label_names = numbered(cells, values, what, names)
        else:
            what = f"data.partition_by {origin!r}"
            both[column], _ = numbered(both[column], both[column], what)  # never as numbers
    return Corpus(
        train=_dataset(both[: len(train)]),
        held_out=_dataset(both[len(train) : len(train) + len(held_out)].filter(["text", "label"])),
        label_names=label_names,
        columns=tuple(map(str, rows.train.columns)),
        chat=source.chat,
        note=source.note,
        response=source.response,
        reserved=_dataset(both[len(train) + len(held_out) :].filter(["text", "label"])),
    )


def shards(
    train: datasets.Dataset, settings: DataSettings, clients: int, seed: int
) -> list[list[int]]:
    """Divide the train set among ``clients``: item i holds the rows that are client i's.

    Raises:
        BadInput: the rows cannot be divided so that every client has one.
    """
    rows = len(train)
    if not 1 <= clients <= rows:
        raise BadInput(
            f"federation.clients must be between 1 and the {rows} rows to train on, got {clients}"
        )
    order = np.random.default_rng(seed).permutation(rows)  # most partitioners cut runs of rows
    groups = _groups(train, settings)[order]
    try:
        parts = divide(order, groups, settings.partition, clients, settings.alpha, seed)
    except ValueError as error:
        raise BadInput(
            f"data.partition {settings.partition!r} cannot divide {rows} rows among {clients} "
            f"clients (data.alpha = {settings.alpha}): {error}"
        ) from error
    if [] in parts:
        raise BadInput(
            f"data.partition {settings.partition!r} leaves client {parts.index([])} without data"
        )
    return parts


def _groups(train: datasets.Dataset, settings: DataSettings) -> np.ndarray[Any, Any]:
    """Return the number of each row's group: (rows,) int, all 0 where no column matters."""
    if settings.partition not in PARTITIONS_BY_COLUMN:
        return np.zeros(len(train), dtype=np.int64)
    _need_column(settings, train.column_names)
    return np.unique(train[settings.partition_by][:], return_inverse=True)[1]


# Reading


def _columns(rows: Rows, settings: DataSettings) -> dict[str, str]:
    """Return where "label" and the column that the partition goes by are to come from."""
    there = list(rows.train.columns)
    for key in ("text_column", "label_column"):
        if (wanted := getattr(settings, key)) and wanted not in there:
            raise BadInput(unknown(f"data.{key}", wanted, there, private=True))
    label = settings.label_column or ("label" if "label" in there else "")
    columns = {"label": label} if label else {}
    by = settings.partition_by
    if settings.partition in PARTITIONS_BY_COLUMN and by not in ("text", *columns):
        _need_column(settings, there)
        columns[by] = by
    return columns


def _need_column(settings: DataSettings, there: Iterable[str]) -> None:
    if settings.partition_by not in there:
        raise BadInput(
            f"data.partition {settings.partition!r} goes by the column data.partition_by = "
            f"{settings.partition_by!r}, but the columns are {quote(', '.join(there))}"
        )


def _clean(
    frame: pd.DataFrame, source: TextSource, columns: dict[str, str], name: str
) -> pd.DataFrame:
    """Return the texts, and the columns wanted under their new names; blank texts are dropped.

    A row's index is its number in the data, from 1.
    """
    frame = frame.set_axis(range(1, len(frame) + 1))
    picked = pd.DataFrame({new: frame[old] for new, old in columns.items()}, index=frame.index)
    texts = source.texts(frame)
    need_unicode(texts, name, ", ".join(source.columns))
    for new, old in columns.items():
        need_unicode(picked[new], name, old)
    picked.insert(0, "text", texts)
    picked = picked[picked["text"] != ""]
    if picked.empty:
        there = quote(", ".join(map(repr, source.columns)))
        raise BadInput(
            f"data.name {name!r} has no text in its column{'s' * (len(source.columns) > 1)} {there}"
        )
    return picked


def _split(
    frame: pd.DataFrame, settings: DataSettings, generator: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    different = frame.drop_duplicates("text")
    if settings.evaluate >= len(different):
        raise BadInput(
            f"data.evaluate must be less than the {len(different)} different texts of "
            f"{settings.name!r}, got {settings.evaluate}"
        )
    held_out = different.sample(settings.evaluate, random_state=generator)
    return frame[~frame["text"].isin(held_out["text"])], held_out


def _reserve(
    train: pd.DataFrame, wanted: int, generator: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what is left to train on, and texts set aside: no text twice, a third at most."""
    if not wanted:
        return train, train[:0]
    different = train.drop_duplicates("text")
    aside = different.sample(min(wanted, len(different) // 3), random_state=generator)
    return train[~train["text"].isin(aside["text"])], aside


def _dataset(frame: pd.DataFrame) -> datasets.Dataset:
    kinds = {name: "string" if name == "text" else "int64" for name in frame.columns}
    features = datasets.Features({name: datasets.Value(kind) for name, kind in kinds.items()})
    return datasets.Dataset.from_pandas(frame, features, preserve_index=False)
