"""The pages that people read, and the blocks of code in them."""

import contextlib
import io
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """Return a page's blocks of code in ``language``, in their order."""
    pairs = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for name, code in pairs if name == language]


def name(page: Path) -> str:
    """Return how a test calls a page."""
    return str(page.relative_to(ROOT))


def printed(code: str, folder: Path) -> list[str]:
    """Run ``code`` as a file of a user's, in ``folder``; return its lines."""
    path = folder / "mine.py"
    path.write_text(code, encoding="utf-8")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as output:
        runpy.run_path(str(path), run_name="__main__")
    return output.getvalue().splitlines()
