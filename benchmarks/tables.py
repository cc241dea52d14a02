"""Writes the tables of README.md and docs/ from benchmarks/results/*.json.

A page says where a table stands, and what lies between is this script's:

    <!-- table: dager_exact -->
    <!-- /table -->

    python benchmarks/tables.py            # fills them all in
    python benchmarks/tables.py --check    # says which page differs; exit code 1
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rows import counts, dager, defenses, faults, field, lab, matching, membership, summary
from rows.markdown import Results

ROOT = Path(__file__).resolve().parent.parent
TABLES: dict[str, Callable[[Results], str]] = {
    **counts.TABLES,
    **dager.TABLES,
    **defenses.TABLES,
    **faults.TABLES,
    **field.TABLES,
    **lab.TABLES,
    **matching.TABLES,
    **membership.TABLES,
    **summary.TABLES,
}
PLACE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)


def pages(root: Path) -> Iterator[Path]:
    """Yield the pages that may hold tables."""
    yield root / "README.md"
    yield from sorted((root / "docs").rglob("*.md"))


def filled(page: str, results: Results) -> str:
    """Return a page's text with its tables as the results have them."""

    def table(place: re.Match[str]) -> str:
        if place[2] not in TABLES:
            raise SystemExit(f"unknown table {place[2]!r}; known: {', '.join(sorted(TABLES))}")
        return f"{place[1]}{TABLES[place[2]](results)}\n{place[4]}"

    return PLACE.sub(table, page)


def main() -> None:
    """Fill the tables in, or say which differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1")
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout")
    options = parser.parse_args()
    results = Results(options.root / "benchmarks" / "results")
    stale = []
    for path in pages(options.root):
        page = path.read_text(encoding="utf-8")
        new = filled(page, results)
        if new != page:
            stale.append(str(path.relative_to(options.root)))
            if not options.check:
                path.write_text(new, encoding="utf-8")
    if options.check and stale:
        sys.exit(
            f"tables differ from benchmarks/results: {', '.join(stale)}; "
            "run python benchmarks/tables.py"
        )


if __name__ == "__main__":
    main()
