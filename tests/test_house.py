"""The rules of the house that no linter knows: names, sizes, and where tests are."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedsim", "attacks", "defenses", "clients", "server")
LINES = 300
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_there_is_something_to_look_at() -> None:
    assert len(SOURCES) > 100 and len(TESTS) > 100


def test_no_two_classes_share_a_name() -> None:
    places = defaultdict[str, list[str]](list)
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_file_is_longer_than_one_reads() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {str(path): length for path, length in lengths.items() if length > LINES} == {}


def room(tests: Path) -> Path:
    """Return the folder whose code the tests in a folder are of."""
    parts = tests.relative_to(ROOT / "tests").parts
    return ROOT.joinpath(*(("fedsim", "lab", *parts[1:]) if parts[:1] == ("lab",) else parts))


def test_tests_mirror_the_rooms() -> None:
    folders = {path.parent for path in TESTS if path.name.startswith("test_")}
    astray = {path for path in folders if not room(path).is_dir()}
    assert astray == {ROOT / "tests" / "e2e"}  # of the whole, by its commands


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in TESTS}  # else pytest imports tests/attacks as `attacks`
    assert {path for path in folders if not (path / "__init__.py").exists()} == set()


def test_no_test_takes_its_helpers_from_another_test() -> None:
    borrowed = [
        f"{path.relative_to(ROOT)}: {node.module}"
        for path in TESTS
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("tests.")
        and (node.module or "").rsplit(".", 1)[-1].startswith("test_")
    ]
    assert borrowed == []
