"""The clients' text: read, cleaned, part of it held out, the rest divided among the clients."""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pandas as pd

from clients.named import Rows, find_rows
from clients.partitions import PARTITIONS, PARTITIONS_BY_COLUMN, divide
from clients.separators import SIGNS
from clients.values import kinds, meant, numbered
from fedsim.errors import BadInput, unknown


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which text, and how it is divided: the [data] table of a config."""

    name: str  # cola | sst2 | rotten_tomatoes | wikitext2 | builtin:clinic | hub id | a file
    path: str = ""  # a folder with the raw files of a named data set; "": from the hub
    partition: str = "iid"  # a key of PARTITIONS
    alpha: float = 0.5  # Dirichlet concentration, > 0; the smaller, the more the clients differ
    partition_by: str = "label"  # the column that PARTITIONS_BY_COLUMN go by
    text_column: str = ""  # "": text, sentence or prompt, or else the only column of strings
    label_column: str = ""  # "": label, if there is one
    evaluate: int = 128  # held-out examples, at most; 0: none

    def __post_init__(self) -> None:
        """Refuse what no data could make right."""
        if self.partition not in PARTITIONS:
            raise BadInput(unknown("data.partition", self.partition, PARTITIONS))
        if not 0.0 < self.alpha < math.inf:
            raise BadInput(f"data.alpha must be a positive number, got {self.alpha}")
        if self.evaluate < 0:
            raise BadInput(f"data.evaluate must be at least 0, got {self.evaluate}")


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


def load_corpus(settings: DataSettings, seed: int) -> Corpus:
    """Read the data and hold out ``settings.evaluate`` rows, drawn by ``seed``.

    They come from the data's own development split. Where it has none they come from its rows,
    no text twice, and further rows with a text that is held out are dropped.

    Raises:
        BadInput: the data cannot be found, read or used as the settings say.
    """
    rows = find_rows(settings.name, settings.path)
    columns = _columns(rows, settings)
    train = _clean(rows, rows.train, columns, settings)
    generator = np.random.default_rng(seed)
    if rows.held_out is None:
        train, held_out = _split(train, settings, generator)
    else:
        held_out = _clean(rows, rows.held_out, columns, settings)
        held_out = held_out.sample(min(settings.evaluate, len(held_out)), random_state=generator)
    both = pd.concat([train, held_out])
    label_names: tuple[str, ...] = ()
    for column, origin in columns.items():
        if column == "label":
            names = rows.label_names.get(origin, ())
            what = f"data.label_column {origin!r}"
            cells = both[column]
            values: Iterable[Any] = meant(list(cells)) if rows.untyped else cells
            both[column], label_names = numbered(cells, values, what, names)
        elif column != "text":
            what = f"data.partition_by {origin!r}"
            both[column], _ = numbered(both[column], both[column], what)  # never as numbers
    return Corpus(
        train=_dataset(both[: len(train)]),
        held_out=_dataset(both[len(train) :].filter(["text", "label"])),
        label_names=label_names,
        columns=tuple(map(str, rows.train.columns)),
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
    """Return where "text", "label" and the column that the partition goes by are to come from."""
    there = list(rows.train.columns)
    for key in ("text_column", "label_column"):
        if (wanted := getattr(settings, key)) and wanted not in there:
            raise BadInput(unknown(f"data.{key}", wanted, there))
    label = settings.label_column or ("label" if "label" in there else "")
    columns = {"text": settings.text_column or _text_column(rows, label)}
    if label:
        columns["label"] = label
    by = settings.partition_by
    if settings.partition in PARTITIONS_BY_COLUMN and by not in columns:
        _need_column(settings, there)
        columns[by] = by
    return columns


def _text_column(rows: Rows, label: str) -> str:
    frame = rows.train
    for name in ("text", "sentence", "prompt"):
        if name in frame and name != label:
            return name
    others = [str(name) for name in frame.columns if name != label]
    strings = [name for name in others if {"str"} <= _kinds(rows, frame[name]) <= {"str", "blank"}]
    if len(strings) != 1:
        raise BadInput(
            "data.text_column must be given: none is called text, sentence or prompt, and "
            f"{len(strings)} hold strings (columns: {', '.join(map(str, frame.columns))})"
        )
    if len(frame.columns) == 1:
        _need_one(strings[0], frame[strings[0]])
    return strings[0]


def _need_one(column: str, cells: Iterable[Any]) -> None:
    """Refuse a sole column that seems to be several: a sign in its name is in all its texts."""
    texts = [text for text in cells if isinstance(text, str) and text.strip()]
    for sign in SIGNS:
        if sign in column and all(sign in text for text in texts):
            raise BadInput(
                f"data.name has one column, {column!r}, and all its texts have {sign!r} in them as "
                "its name has, as if they were several; name it as data.text_column if it is one"
            )


def _kinds(rows: Rows, cells: "pd.Series[Any]") -> set[str]:
    return kinds(meant(list(cells)) if rows.untyped else cells)


def _need_column(settings: DataSettings, there: Iterable[str]) -> None:
    if settings.partition_by not in there:
        raise BadInput(
            f"data.partition {settings.partition!r} goes by the column data.partition_by = "
            f"{settings.partition_by!r}, but the columns are {', '.join(there)}"
        )


def _clean(
    rows: Rows, frame: pd.DataFrame, columns: dict[str, str], settings: DataSettings
) -> pd.DataFrame:
    """Return the columns wanted under their new names, texts stripped, blank ones dropped.

    A row's index is its number in the data, from 1.
    """
    frame = frame.set_axis(range(1, len(frame) + 1))
    texts = frame[columns["text"]]
    if others := sorted(_kinds(rows, texts) - {"str", "blank"}):
        raise BadInput(
            f"data.text_column {columns['text']!r} must hold strings, got {', '.join(others)}"
        )
    for old in columns.values():
        _need_unicode(frame[old], settings.name, old)
    picked = pd.DataFrame({new: frame[old] for new, old in columns.items()})
    picked["text"] = [text.strip() if isinstance(text, str) else "" for text in texts]
    picked = picked[picked["text"] != ""]
    if picked.empty:
        raise BadInput(f"data.name {settings.name!r} has no text in its column {columns['text']!r}")
    return picked


def _need_unicode(values: Collection[Any], name: str, column: str) -> None:
    """Refuse half of a surrogate pair: JSON can say it, but no file can hold it."""
    try:
        "".join(value for value in values if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        pass  # it is to be named
    else:
        return
    for number, value in enumerate(values, start=1):
        half = re.search("[\ud800-\udfff]", value) if isinstance(value, str) else None
        if half:
            raise BadInput(
                f"data.name {name!r}, column {column!r}, row {number}: wanted text, got a lone "
                f"surrogate, U+{ord(half[0]):04X}"
            )


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


def _dataset(frame: pd.DataFrame) -> datasets.Dataset:
    kinds = {name: "string" if name == "text" else "int64" for name in frame.columns}
    features = datasets.Features({name: datasets.Value(kind) for name, kind in kinds.items()})
    return datasets.Dataset.from_pandas(frame, features, preserve_index=False)
