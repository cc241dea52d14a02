"""Effects: what a defense says of itself, so that nothing else must know it by name."""

import ast
from pathlib import Path

import pytest

from defenses import DEFENSES

ROOT = Path(__file__).parents[2]
WORDS = {"dropout", "freeze", "none"}  # keys of the config, and a word of HTML, too


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
