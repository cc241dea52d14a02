"""The public surface: what each package's ``__init__`` says it offers, and where it lies."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("attacks", "clients", "defenses", "server", "fedsim.models")


def order(name: str) -> tuple[int, str]:
    """Sort as ruff does: TABLES, then Classes, then functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def offered(package: str, source: str) -> set[str]:
    """Return what an ``__init__`` makes or takes from its own package; other imports are means."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            names |= {one.asname or one.name for one in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id for one in targets if isinstance(one, ast.Name)}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_complete_and_true_and_the_package_is_ours(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None
    init = Path(module.__file__).resolve()
    assert init == ROOT.resolve() / package.replace(".", "/") / "__init__.py"
    assert module.__all__ == sorted(module.__all__, key=order)
    assert set(module.__all__) == offered(package, init.read_text(encoding="utf-8"))
    assert not [name for name in module.__all__ if not hasattr(module, name)]


@pytest.mark.parametrize("package", ["fedsim", "attacks", "clients", "defenses", "server"])
def test_the_packages_are_typed_and_this_repositorys(package: str) -> None:
    module = importlib.import_module(package)
    assert Path(str(module.__file__)).resolve().parent == ROOT.resolve() / package
    assert (ROOT / package / "py.typed").is_file()
