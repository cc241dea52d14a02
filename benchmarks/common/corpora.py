"""Parts of the real data sets, for runs of the whole tool."""

import functools
import tempfile
from pathlib import Path

from common.places import DATA

from clients import DataSettings
from clients.data import load_corpus
from fedsim.files import write_lines


@functools.cache
def some(name: str, rows: int = 2000) -> list[str]:
    """Return overrides for ``rows`` or one more, evenly spread over a train split.

    They are fewer to tokenize in every cell.
    """
    settings = DataSettings(name=name, path=str(DATA / "datasets" / name), evaluate=0)
    train = load_corpus(settings, 1).train
    path = Path(tempfile.mkdtemp()) / f"{name}.jsonl"
    write_lines(path, train.select(range(0, len(train), len(train) // rows)))
    return [f"data.name={path}"]
