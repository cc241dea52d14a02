"""What sweep.json and cell.json must say."""

from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import MalformedFile
from fedsim.files import write_json
from fedsim.lab.store.sweep import read_end, read_results, read_sweep
from tests.lab.synthetic import cell, sweep_of


def test_a_sweep_comes_back(tmp_path: Path) -> None:
    tree = sweep_of(
        {"a": [1, 2]}, [cell(f"a={n}", {"a": n}, {"seed": n}, "failed") for n in (1, 2)]
    )
    write_json(tmp_path / "sweep.json", tree)
    assert read_sweep(tmp_path).as_dict() == {**tree, "words": []}
    assert [(one.name, one.seed) for one in read_results(tmp_path)] == [("a=1", 1), ("a=2", 2)]


@pytest.mark.parametrize(
    ("cells", "more", "line"),
    [
        ([], {}, "cells: wanted"),
        ([cell("..", {}, {})], {}, "cells.0.name: wanted"),  # it is a directory's name, too
        ([cell("a/b", {}, {})], {}, "cells.0.name: wanted"),
        ([cell("a", {}, {}), cell("a", {}, {})], {}, "wanted cells with names of their own"),
        ([cell("a", {}, {})], {"axes": {"b": [1]}}, "wanted a value of b in the cell a"),
        ([cell("a", {}, {"seed": "1"})], {}, "wanted a whole number as seed"),
        ([cell("a", {}, {"seed": None})], {}, r"cells.0.config: wanted what TOML can hold"),
        ([cell("a", {}, {})], {"base": {"b": [None]}}, "base: wanted what TOML can hold"),
        ([cell("a", {}, {}, "lost")], {}, "cells.0.status: wanted"),
        ([3], {}, "cells.0: wanted"),
    ],
)
def test_a_sweep_that_says_something_else_is_malformed(
    tmp_path: Path, cells: list[Any], more: dict[str, Any], line: str
) -> None:
    write_json(tmp_path / "sweep.json", {**sweep_of({}, cells), **more})
    with pytest.raises(MalformedFile, match=rf"sweep.json: .*{line}") as error:
        read_sweep(tmp_path)
    assert "\n" not in str(error.value)


def test_a_cell_that_did_not_end_so_is_malformed(tmp_path: Path) -> None:
    assert read_end(tmp_path) is None
    write_json(tmp_path / "cell.json", {"status": "done", "seconds": "long"})
    with pytest.raises(MalformedFile, match=r"cell.json: seconds: wanted"):
        read_end(tmp_path)
