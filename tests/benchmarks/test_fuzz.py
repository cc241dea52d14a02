"""Whatever a file says, it is read or refused in one line: some mutations of each."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2] / "benchmarks"
LEAST, MOST = 4, 250  # mutations of each reader: as many as fit into the seconds, but some
SECONDS = 1.5
NAMES = (
    "config", "overrides", "policy", "saved config", "sweep.json", "cell.json", "rounds.jsonl",
    "reconstructions.jsonl", "samples.jsonl", "summary.json", "vault", "pool", "audit",
    "observation.json", "tensors", "checkpoints", "checkpoint names", "memory", "manifest.json",
    "attack.json", "recipe", "sealed vault",
)  # fmt: skip
FORGIVEN = ("manifest.json", "checkpoints", "checkpoint names")  # one that is lost costs no run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The scripts, found as ``benchmarks/run.py`` finds them."""
    sys.path.insert(0, str(ROOT))
    before = set(sys.modules)
    from lab import fuzz, fuzz_readers

    yield fuzz, fuzz_readers
    sys.path.remove(str(ROOT))
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("lab", "common"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def scene(lab: tuple[ModuleType, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lab[1].build(tmp_path_factory.mktemp("fuzz") / "scene")


def test_every_reader_is_here(lab: tuple[ModuleType, ModuleType]) -> None:
    assert set(lab[1].READERS) == {*NAMES, "model directory"}  # that one is slow: the benchmark's


@pytest.mark.parametrize("name", NAMES)
def test_a_mutated_file_is_read_or_refused_in_one_line(
    lab: tuple[ModuleType, ModuleType], scene: Any, name: str
) -> None:
    fuzz, readers = lab

    def going(number: int, seconds: float) -> bool:
        return number < LEAST or (number < MOST and seconds < SECONDS)

    tally = fuzz.fuzz(readers.READERS[name], scene, 1, going)
    assert tally.faults == {}
    assert tally.outcomes["refused"] > 0 or name in FORGIVEN
    assert sum(tally.outcomes.values()) == tally.number >= LEAST
