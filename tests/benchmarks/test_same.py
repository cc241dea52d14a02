"""The comparison of two checkouts: what is of the moment is masked, and nothing else is."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def same(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, found as ``benchmarks/run.py`` finds it."""
    monkeypatch.syspath_prepend(ROOT)
    before = set(sys.modules)
    from lab import same

    yield same
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "lab":
            del sys.modules[name]


def left(tmp_path: Path, same: ModuleType, **files: str) -> dict[str, object]:
    """The fields of a directory with ``files``, as they come back from the cache."""
    for path in tmp_path.iterdir():
        path.unlink()
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    fields: dict[str, object] = json.loads(json.dumps(same.of_directory(tmp_path)))
    return fields


def test_a_figure_that_differs_in_its_last_digit_is_said(same: ModuleType, tmp_path: Path) -> None:
    old = left(tmp_path, same, summary_json='{"rouge1": 12.345678901, "seconds": 1.5, "n": NaN}')
    new = left(tmp_path, same, summary_json='{"rouge1": 12.345678902, "seconds": 9.5, "n": NaN}')
    assert list(same.differences("c", old, old)) == []
    assert list(same.differences("c", old, new)) == [
        "c/summary.json:.rouge1: 12.345678901 -> 12.345678902"
    ]


def test_a_file_a_key_and_a_line_that_come_or_go_are_said(same: ModuleType, tmp_path: Path) -> None:
    old = left(tmp_path, same, a_json='{"x": null}', b_md="one\ntwo\nthree\n")
    new = left(tmp_path, same, a_json='{"y": null}', b_md="one\nthree\n", c_json="")
    assert list(same.differences("c", old, new)) == [
        "c/a.json:.x: null -> nothing",
        "c/b.md:: -two",
        "c/a.json:.y: nothing -> null",
        'c/c.json: nothing -> "a file"',
        f'c/c.json:: nothing -> "{same.of_directory(tmp_path)["c.json:"]}"',
    ]


@pytest.mark.parametrize(
    ("old", "new", "alike"),
    [
        ("An update: 8 MB up, 0.07 s of the client", "An update: 8 MB up, 0.1 s of the client", 1),
        ("An update: 8 MB up, 0.07 s of the client", "An update: 9 MB up, 0.07 s of the client", 0),
        (" 1  dager  1.00  0.2  leak", " 1  dager  1.00  10.2  leak", 1),
        (" 1  dager  1.00  0.2  leak", " 1  dager  1.01  0.2  leak", 0),
        (" 1  dager  1.00  0.2  leak", " 1  dager  1.00  0.2  no-leak", 0),
        ("<dt>on the wire: seconds</dt><dd>1</dd>", "<dt>on the wire: seconds</dt><dd>2</dd>", 1),
        ("<dt>on the wire: bytes</dt><dd>1</dd>", "<dt>on the wire: bytes</dt><dd>2</dd>", 0),
        ("started 2026-11-30T06:50:05+00:00", "started 2027-01-01T00:00:00+00:00", 1),
    ],
)
def test_times_are_masked_and_what_stands_beside_them_is_not(
    same: ModuleType, old: str, new: str, alike: int
) -> None:
    fields = [{"step 1, run:stdout": [line]} for line in (old, new)]
    assert (list(same.differences("c", *fields)) == []) == bool(alike)


def test_only_the_column_of_seconds_is_masked_in_a_page(same: ModuleType) -> None:
    head = ["<thead><tr>", '<th scope="col">exact</th>', '<th scope="col" class="number">s</th>']
    rows = [f'<tr><td class="number">{exact}</td><td class="number">{s}</td></tr>'
            for exact, s in ((1, 2), (1, 3), (4, 3))]  # fmt: skip
    first, second, third = ({"report.html:": [*head, row]} for row in rows)
    assert list(same.differences("c", first, second)) == []
    assert len(list(same.differences("c", second, third))) == 2


PAGE = ["<h3>controls</h3>", "<table>", "<tr><td>dager</td><td>1</td></tr>", "</table>", "</div>"]
TABLE = ['<h3 id="table-attacks">The attacks</h3>', "<div>", "<table>", "<thead><tr>",
         '<th scope="col">attack</th>', "</tr></thead>", "<tbody>", "<tr><td>dager</td></tr>",
         "</tbody>", "</table>", "</div>"]  # fmt: skip


@pytest.mark.parametrize(
    ("page", "unmeant"),
    [
        (PAGE, 0),
        ([*PAGE[:1], "", *TABLE, *PAGE[1:]], 0),
        ([*PAGE, *TABLE], 0),
        ([*PAGE[:3], PAGE[2], *PAGE[3:]], 1),  # a row of another table
        ([*PAGE[:3], "<tr><td>a</td><td>b</td><td>c</td><td>d</td></tr>", *PAGE[3:]], 1),
        ([*TABLE, *PAGE, "</div>"], 1),
        ([*PAGE[:2], *TABLE], 3),  # what is lost behind it
    ],
)
def test_of_a_page_the_table_of_the_attacks_alone_is_meant(
    same: ModuleType, page: list[str], unmeant: int
) -> None:
    old, new = ({"run/report.html:": lines} for lines in (PAGE, page))
    used = [0] * len(same.INTENDED)
    lines = list(same.differences("c", old, new))
    assert len([line for line in lines if not same._meant(line, used)]) == unmeant
    assert sum(used) == (TABLE[0] in page)


def test_another_row_in_the_table_of_the_attacks_is_not_meant(same: ModuleType) -> None:
    old, new = {"report.html:": TABLE}, {"report.html:": [*TABLE[:8], TABLE[7], *TABLE[8:]]}
    (line,) = same.differences("c", old, new)
    assert line == "c/report.html:table-attacks: +<tr><td>dager</td></tr>"
    assert not same._meant(line, [0] * len(same.INTENDED))


def test_progress_counts_as_far_as_it_does_not_hang_on_the_clock(same: ModuleType) -> None:
    slow = {"step 1, run:stderr": ["dager: position 3", "round 1/2 done, accuracy 0.500"]}
    fast = {"step 1, run:stderr": ["round 1/2 done, accuracy 0.500"]}
    other = {"step 1, run:stderr": ["round 1/2 done, accuracy 0.501"]}
    assert list(same.differences("c", slow, fast)) == []
    assert len(list(same.differences("c", slow, other))) == 2


def test_no_two_cases_have_one_name_and_every_attack_is_run(same: ModuleType) -> None:
    from attacks import ATTACKS
    from defenses import DEFENSES

    names = [case.name for case in same.CASES]
    assert len(names) == len(set(names)) >= 20
    words = " ".join(step for case in same.CASES for step in case.steps)
    assert [attack for attack in ATTACKS if attack not in words] == []
    assert [defense for defense in DEFENSES if defense not in words] == []
