"""Where rows come from: the built-in corpus, named data sets, files, the hub.

Columns stay as they came; ``clients.data`` finds the text and the labels among them.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pandas as pd

from clients.corpus import LABELS, clinic
from clients.decoding import UTF8, is_utf8
from clients.formats import FILES, TEXTS, UNTYPED, kind_of, lines, read_file, tsv
from clients.hub import hub_splits
from fedsim.errors import BadInput, unknown


@dataclass(frozen=True)
class Rows:
    """Raw rows; ``held_out`` is None where the data has no split for evaluation of its own."""

    train: pd.DataFrame
    held_out: pd.DataFrame | None = None
    label_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by column
    untyped: bool = False  # from a file whose cells are all texts, numbers too


@dataclass(frozen=True)
class Named:
    """A data set known by name: as its raw upstream files in a folder, or from the hub."""

    files: tuple[str, ...]
    read: Callable[[Path], tuple[pd.DataFrame, pd.DataFrame | None]]  # train, held-out
    hub: tuple[str, str | None]  # repository, configuration
    label_names: tuple[str, ...] = ()  # of labels 0, 1, ...; () without labels
    clean: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame


def find_rows(name: str, path: str, encoding: str = UTF8) -> Rows:
    """Read the data called ``name``, from the folder ``path`` unless that is empty.

    ``encoding`` is that of a file of text of the user's.

    Raises:
        BadInput: it cannot be found or read; one line says which key of [data] to change.
    """
    if not is_utf8(encoding) and kind_of(name) not in TEXTS:
        raise BadInput(
            f"data.encoding is for a file of {', '.join(TEXTS)}, got {encoding!r} for data.name = "
            f"{name!r}"
        )
    if name in NAMED:
        named = NAMED[name]
        rows = _copy(name, path) if path else _hub(name, *named.hub)
        held_out = None if rows.held_out is None else named.clean(rows.held_out)
        train, label_names = named.clean(rows.train), {"label": named.label_names}
        return Rows(train, held_out, label_names, rows.untyped)
    if path:
        raise BadInput(
            f"data.path is for a copy of {', '.join(sorted(NAMED))}, got data.name = {name!r}"
        )
    if name in BUILTIN:
        texts, labels = zip(*clinic(), strict=True)
        return Rows(pd.DataFrame({"text": texts, "label": labels}), None, {"label": LABELS})
    if name.startswith("builtin:"):
        raise BadInput(unknown("data.name", name, BUILTIN))
    file = Path(os.path.expanduser(name))
    if kind_of(name) in FILES or file.exists():
        return Rows(read_file(file, encoding), untyped=kind_of(name) in UNTYPED)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and name[0] not in ".-":
        return _hub(name, name, None)
    hint = unknown("data.name", name, (*BUILTIN, *NAMED))
    raise BadInput(f"{hint}; a hub id is owner/name, a file ends in {', '.join(FILES)}")


# Named data sets


def _copy(name: str, path: str) -> Rows:
    folder = Path(os.path.expanduser(path))
    if not folder.is_dir():
        raise BadInput(
            f"data.path must be a folder with {', '.join(NAMED[name].files)} "
            f"for data.name = {name!r}, got {path!r}"
        )
    train, held_out = NAMED[name].read(folder)
    return Rows(train, held_out, untyped=NAMED[name].files[0].endswith(UNTYPED))


def _sst2(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return tsv(folder / "train.tsv", "data.path"), tsv(folder / "dev.tsv", "data.path")


def _cola(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    columns = ["source", "label", "mark", "sentence"]
    train, held_out = (
        tsv(folder / f"in_domain_{split}.tsv", "data.path", header=None, names=columns)
        for split in ("train", "dev")
    )
    return train, held_out


def _rotten_tomatoes(folder: Path) -> tuple[pd.DataFrame, None]:
    halves = [
        lines(folder / f"rt-polarity.{kind}", "data.path", "cp1252").assign(label=label)
        for label, kind in enumerate(("neg", "pos"))
    ]
    return pd.concat(halves, ignore_index=True), None


def _wikitext2(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    # The training text is not in every copy; then valid stands in for it, and test is held out.
    has_train = (folder / "train.txt").exists()
    files = ("train.txt", "valid.txt") if has_train else ("valid.txt", "test.txt")
    train, held_out = (lines(folder / file, "data.path") for file in files)
    return train, held_out


def _without_headings(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[~frame["text"].str.fullmatch(r"\s*= .* =\s*", na=False)]


BUILTIN = ("builtin:clinic",)
NAMED = {
    "cola": Named(
        files=("in_domain_train.tsv", "in_domain_dev.tsv"),
        read=_cola,
        hub=("nyu-mll/glue", "cola"),
        label_names=("unacceptable", "acceptable"),
    ),
    "rotten_tomatoes": Named(
        files=("rt-polarity.neg", "rt-polarity.pos"),
        read=_rotten_tomatoes,
        hub=("cornell-movie-review-data/rotten_tomatoes", None),
        label_names=("negative", "positive"),
    ),
    "sst2": Named(
        files=("train.tsv", "dev.tsv"),
        read=_sst2,
        hub=("nyu-mll/glue", "sst2"),
        label_names=("negative", "positive"),
    ),
    "wikitext2": Named(
        files=("valid.txt", "test.txt"),
        read=_wikitext2,
        hub=("Salesforce/wikitext", "wikitext-2-raw-v1"),
        clean=_without_headings,
    ),
}


# The hub


def _hub(name: str, repository: str, configuration: str | None) -> Rows:
    instead = "point data.path at a local copy" if name in NAMED else "name a local file"
    splits = hub_splits(name, repository, configuration, instead)
    if "train" not in splits:
        raise BadInput(f"data.name {name!r} must have a train split, got {', '.join(splits)}")
    train = splits["train"]
    held_out = [
        splits[split].to_pandas()
        for split in ("validation", "test")
        if split in splits and splits[split].column_names == train.column_names
    ]
    label_names = {
        column: tuple(feature.names)
        for column, feature in train.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    return Rows(train.to_pandas(), held_out[0] if held_out else None, label_names)
