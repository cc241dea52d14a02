"""The tables on the pages are those of benchmarks/results."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

SCRIPT = ROOT / "benchmarks" / "tables.py"
PLACE = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- /table -->", re.DOTALL)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the pages and the results."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    return tmp_path


def test_every_page_says_what_was_measured() -> None:
    done = run("--check")
    assert done.returncode == 0, done.stderr


def test_the_pages_hold_tables() -> None:
    """A figure of the JSON, read by hand, stands on the page."""
    cells = json.loads((ROOT / "benchmarks/results/dager_exact.json").read_text("utf-8"))["cells"]
    read = sum(cell["exact"] for cell in cells.values())
    assert f"{read:,} of" in (ROOT / "README.md").read_text(encoding="utf-8")
    held = [name for page in PAGES for name, _ in PLACE.findall(page.read_text(encoding="utf-8"))]
    assert len(held) > 25
    assert len(set(held)) == len(held)


def test_another_figure_on_a_page_is_found_and_mended(checkout: Path) -> None:
    page = checkout / "docs" / "results" / "dager.md"
    true = page.read_text(encoding="utf-8")
    page.write_text(true.replace("| 20 of 20 |", "| 19 of 20 |", 1), encoding="utf-8")
    assert page.read_text(encoding="utf-8") != true
    done = run("--check", "--root", checkout)
    assert done.returncode == 1
    assert "tables differ from benchmarks/results: docs/results/dager.md" in done.stderr
    assert run("--root", checkout).returncode == 0
    assert page.read_text(encoding="utf-8") == true


def test_another_figure_in_the_results_is_found(checkout: Path) -> None:
    path = checkout / "benchmarks" / "results" / "dager_exact.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    whole["cells"]["cola B=1"]["exact"] -= 1
    path.write_text(json.dumps(whole), encoding="utf-8")
    done = run("--check", "--root", checkout)
    assert done.returncode == 1
    assert "README.md, docs/results/dager.md" in done.stderr


def test_a_table_that_nobody_makes_is_said(checkout: Path) -> None:
    page = checkout / "docs" / "config.md"
    page.write_text("<!-- table: nothing -->\n<!-- /table -->\n", encoding="utf-8")
    done = run("--check", "--root", checkout)
    assert done.returncode == 1
    assert "unknown table 'nothing'; known: counts_" in done.stderr
