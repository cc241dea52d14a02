"""``fedsim list``: what there is, and what each plugin's own header says of it."""

import json

import pytest

from attacks import ATTACKS
from defenses import DEFENSES
from fedsim.lab.cli import main


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["list", *words]) == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def test_json_has_each_attacks_header(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json.loads(listed(capsys, "attacks", "--json"))["attacks"]}
    assert set(rows) == set(ATTACKS)
    assert "arXiv:1906.08935" in rows["dlg"]["source"]
    assert rows["tag"]["assumes"] == "as DLG."
    assert rows["tag"]["recovers"] == "tokens, in poor order."
    assert all(row["deviations"] for row in rows.values())


def test_json_has_each_defenses_guarantee(capsys: pytest.CaptureFixture[str]) -> None:
    defenses = json.loads(listed(capsys, "defenses", "--json"))["defenses"]
    rows = {row["name"]: row for row in defenses}
    assert set(rows) == set(DEFENSES)
    assert "arXiv:1607.00133" in rows["dp-sgd"]["source"]
    assert rows["topk"]["guarantee"].startswith("none; this is compression")
    assert rows["none"]["source"] is None  # it implements no paper
    assert "recovers" not in rows["topk"]


def test_the_table_has_the_source_and_one_plugin_all_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    every = listed(capsys, "attacks")
    assert "arXiv:1906.08935" in every and "arXiv:2202.08827" in every
    assert "Recovers:" not in every
    alone = listed(capsys, "attacks", "tag")
    assert "arXiv:2103.06819" in alone and "arXiv:1906.08935" not in alone
    assert "Assumes: as DLG. Recovers: tokens, in poor order. Deviations: one factor" in alone
    assert "factor=0.01" in alone
    assert "Source: not said Guarantee: not said" in listed(capsys, "defenses", "none")
    assert "builtin:clinic" in listed(capsys, "data", "builtin:clinic")
    assert "json, jsonl, txt (each also with .gz) or parquet" in listed(capsys, "data", "<file>")


def test_square_brackets_are_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ATTACKS["tag"], "__doc__", "Read [bold] things [/bold].")
    assert "Read [bold] things [/bold]." in listed(capsys, "attacks", "tag")


def test_an_unknown_name_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "attacks", "dagr"]) == 2
    assert "unknown attack 'dagr'; did you mean 'dager'?" in capsys.readouterr().err
