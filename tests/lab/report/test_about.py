"""The report says of each attack whose it is, what it assumes and what it recovers."""

import csv
from pathlib import Path

import pytest

from fedsim.lab.report.about import attack_tables


@pytest.mark.slow
def test_the_page_and_its_folder_have_the_table(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "The attacks, in the words of their own headers" in html
    assert "arXiv:2405.15586" in html  # of DAGER's paper, the attack of this run
    with (page.parent / "report" / "attacks.csv").open(encoding="utf-8") as file:
        head, dager = csv.reader(file)
    assert head == ["attack", "source", "assumes", "recovers"]
    assert dager[0] == "dager" and "NeurIPS 2024" in dager[1]
    assert "of an encoder the distinct ones" in dager[3]


def test_an_attack_has_one_row_however_often_it_ran() -> None:
    (table,) = attack_tables(["tag", "lamp", "tag"])
    assert [row[0] for row in table.rows] == ["tag", "lamp"]
    assert table.rows[0][2:] == ["as DLG.", "tokens, in poor order."]


def test_where_nothing_was_attacked_there_is_no_table() -> None:
    assert attack_tables([]) == []


def test_what_is_not_installed_here_says_so() -> None:
    away = ["theirs", *["not installed here"] * 3]
    assert attack_tables(["theirs"])[0].rows == [away]
