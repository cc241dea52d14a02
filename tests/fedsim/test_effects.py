"""Effects: what a defense says of itself, so that nothing else must know it by name."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from defenses import DEFENSES
from fedsim.effects import Clips, Effect, Noises, Rescales, Rounds, Zeroes
from fedsim.errors import MalformedMessage
from fedsim.messages import Knowledge

ROOT = Path(__file__).parents[2]
WORDS = {"dropout", "freeze", "none"}  # keys of the config, and a word of HTML, too


@pytest.mark.slow
@pytest.mark.parametrize("package", ["attacks", "fedsim"])
def test_no_defense_is_known_by_name(package: str) -> None:
    """Of all constants, those that name a plugin: an outsider's is in no such list."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 20  # it looks where the code is
    named = {
        (str(file.relative_to(ROOT)), node.value)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in set(DEFENSES) - WORDS
    }
    assert named == set()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Clips(norm=float("nan")), "effect Clips: norm must be >= 0, got nan"),
        (lambda: Noises(multiplier=-1.0), "effect Noises: multiplier must be >= 0, got -1.0"),
        (lambda: Rounds(bits="8"), "bits must be a number, got str"),  # type: ignore[arg-type]
        (lambda: Rescales(divisor=0.0), "effect Rescales: divisor must be > 0, got 0"),
        (lambda: Zeroes(kept=7.0), r"effect Zeroes: kept must be in \(0, 1\], got 7.0"),
        (lambda: Knowledge(defense=[Zeroes()]), "knowledge.defense must be a tuple"),  # type: ignore[arg-type]
    ],
)
def test_an_effects_numbers_make_sense(make: Callable[[], Effect], line: str) -> None:
    with pytest.raises(MalformedMessage, match=line):
        make()
