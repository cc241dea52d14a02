"""The report's file and folder: whole, escaped, redacted when asked, one line when it cannot be."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import BadInput
from fedsim.files import read_json, write_json, write_lines, write_text
from fedsim.lab.cli import main
from fedsim.lab.report import write_report
from fedsim.lab.report.page import Table
from fedsim.lab.store.run import RunDirectory
from tests.lab.conftest import experiment
from tests.lab.report.conftest import EVIL
from tests.lab.synthetic import synthetic_run


class Reader(HTMLParser):
    """All tags with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_and_runs_nothing(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    reader = Reader(html)
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "iframe", "object", "img", "base", "form"}
    for _, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "xlink:href"):
            assert str(attributes.get(name) or "#").startswith("#")
    assert "default-src 'none'" in html
    assert "url(" not in re.sub(r"url\(#", "", html)
    assert "http://" not in html and "https://" not in html


def test_a_clients_text_is_text(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "{{ 7*7 }}" in html
    for sign in ("\u202e", "\u202c", "\u200f", "\x07"):  # shown, never sent
        assert sign not in html
        assert f"U+{ord(sign):04X}" in html
    assert 'title="RIGHT-TO-LEFT OVERRIDE"' in html
    assert "שלום" in Reader(html).text
    assert html.count("<bdi") == html.count("</bdi>") == 2 * 12  # truth and guess of each text


def test_every_part_is_there(page: Path) -> None:
    reader = Reader(page.read_text(encoding="utf-8"))
    sections = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert sections == (
        "what leakage texts personal controls guarantee utility cost manifest".split()
    )
    plots = [attributes for tag, attributes in reader.tags if tag == "svg"]
    assert len(plots) == 4  # timeline and utility, wide and narrow
    assert all(len(str(plot["aria-label"])) > 30 for plot in plots)
    summary = read_json(page.with_name("summary.json"))
    assert summary["verdicts"]["dager"]["reason"] in reader.text
    assert "Only what the protocol gives the server" in reader.text
    assert "No defense in this run gives a privacy guarantee." in reader.text


def test_the_folder_has_the_plots_and_tables(page: Path) -> None:
    folder = page.with_name("report")
    names = {path.name for path in folder.iterdir()}
    tables = {"updates", "leakage", "personal-data-dager", "controls-dager", "samples"}
    assert {f"{table}.csv" for table in tables} <= names
    for plot in ("timeline-dager", "utility"):
        assert (folder / f"{plot}.png").read_bytes()[:4] == b"\x89PNG"
        svg = (folder / f"{plot}.svg").read_text()
        assert svg.startswith("<?xml") and "var(--" not in svg and "#fe0" not in svg
    summary = read_json(page.with_name("summary.json"))
    with (folder / "updates.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["overlap"]) for row in rows] == [
        entry["metrics"]["bag_f1"] for entry in summary["attacks"]
    ]


def test_no_cell_of_the_tables_is_a_formula(page: Path) -> None:
    with (page.with_name("report") / "samples.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert f"'{EVIL[2]}" in [row["truth"] for row in rows]
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "@", "+")]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        (" =1+1", "' =1+1"),
        ("\n=1+1", "'\n=1+1"),
        ("\t@a", "'\t@a"),
        ("\ufeff=1", "'\ufeff=1"),  # prints nothing, and may be skipped
        ("\uff1d1+1", "'\uff1d1+1"),  # full-width
        ("\x00-1", "'U+0000-1"),
        ("a\r=1\x1b[31m", "aU+000D=1U+001B[31m"),
        ("\ud800", "U+D800"),
        ("1 - 1 = 0", "1 - 1 = 0"),
        (-0.5, "-0.5"),
        (None, ""),
    ],
)
def test_what_a_cell_of_a_table_holds(text: Any, cell: str, tmp_path: Path) -> None:
    path = Table(name="t", caption="", columns=["a", "b"], rows=[[text, "b"]]).write(tmp_path)
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["a", "b"], [cell, "b"]]
    assert "\r" not in path.read_bytes().decode() and path.read_text().startswith('"a","b"')


def test_a_lone_surrogate_in_a_sample_is_shown(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", rounds=1, batch=1)
    rows = [row | {"truth": "a \ud800 b", "guess": "\ud800"} for row in run.rows("samples.jsonl")]
    (run.root / "samples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    write_report(run.root, redact=False)
    assert "a U+D800 b" in (run.root / "report" / "samples.csv").read_text(encoding="utf-8")


def test_the_worst_come_first(page: Path) -> None:
    with (page.with_name("report") / "samples.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    order = [(float(row["exact_match"]), float(row["bag_f1"])) for row in rows]
    assert order == sorted(order, reverse=True)
    assert len({order[0], order[-1]}) == 2


@pytest.mark.slow
def test_redacted_there_is_no_text_anywhere(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", texts=EVIL, read=0.8)
    write_report(run.root, redact=False)
    stale = run.root / "report" / "texts-of-old.csv"
    stale.write_text("Zelda Birkett")
    assert main(["report", str(run.root), "--redact"]) == 0
    assert not stale.exists()
    lines = run.rows("reconstructions.jsonl")
    guesses = [text for row in lines for text in row["texts"]]
    words = {word for text in (*EVIL, *guesses) for word in re.findall(r"[A-Za-z]{7,}", text)}
    words -= {"example", "invoice", "reports", "updates"}  # words of the page itself
    assert len(words) > 30
    written = [run.root / "report.html", *(run.root / "report").iterdir()]
    assert len(written) > 8
    for path in written:
        if path.suffix != ".png":
            text = path.read_text(encoding="utf-8")
            left = {word for word in words if re.search(rf"\b{word}\b", text)}
            assert not left, (path.name, left)
    html = (run.root / "report.html").read_text(encoding="utf-8")
    assert "texts left out" in html and "<bdi" not in html
    with (run.root / "report" / "samples.csv").open(encoding="utf-8") as file:
        columns = next(csv.reader(file))
    assert "bag_f1" in columns
    assert not {"truth", "guess", "truth_tokens", "guess_tokens"} & set(columns)


@pytest.mark.slow
def test_redacted_an_attacks_own_words_are_left_out(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run")
    path = run.root / "summary.json"
    summary = read_json(path)
    said = {
        "error": "ValueError: at Zelda Birkett",
        "reason": "The attack could not run: at Zelda Birkett.",
    }
    for entry in summary["attacks"]:
        entry |= said
    write_lines(run.root / "samples.jsonl", [row | said for row in run.rows("samples.jsonl")])
    summary["verdicts"]["dager"]["reason"] = "The attack could not run: at Zelda Birkett."
    summary["notes"] = ["an attack could not run: at Zelda Birkett"]
    summary["failures"] = [{"round": 1, "client": 1, "error": "at Zelda Birkett"}]
    write_json(path, summary)
    write_report(run.root, redact=False)
    assert b"Birkett" in (run.root / "report" / "samples.csv").read_bytes()
    write_report(run.root, redact=True)
    written = [run.root / "report.html", *(run.root / "report").iterdir()]
    assert len(written) > 8
    for path in written:
        assert b"Birkett" not in path.read_bytes(), path.name


@pytest.mark.slow
def test_the_same_run_gives_the_same_report(run: RunDirectory, page: Path) -> None:
    once = page.read_bytes()
    assert write_report(run.root, redact=False).read_bytes() == once


def _spoil(run: RunDirectory, name: str, text: str) -> None:
    write_text(run.root / name, text)


BROKEN: list[tuple[str, str, str]] = [
    ("summary.json", "{", "summary.json is not valid JSON"),
    ("summary.json", "[]", "summary.json: all of it: wanted"),
    ("summary.json", '{"schema": 2}', "summary.json: schema: wanted 1, got '2'"),
    ("reconstructions.jsonl", "{\n{}\n", "reconstructions.jsonl, line 1 is not valid JSON"),
    ("reconstructions.jsonl", '{"role": "attack"}\n', "line 1: attack: wanted"),
    ("reconstructions.jsonl", "", "its files do not fit together"),
    ("samples.jsonl", "{\n{}\n", "samples.jsonl, line 1 is not valid JSON"),
    ("samples.jsonl", "{}\n", "samples.jsonl, line 1: attack: wanted"),
    ("samples.jsonl", "", "its files do not fit together"),
    ("config.toml", "= 3", "is not valid TOML"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text", "line"), BROKEN)
def test_a_broken_file_is_one_line(
    name: str, text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = synthetic_run(tmp_path / "run", rounds=1, batch=1)
    _spoil(run, name, text)
    assert main(["report", str(run.root)]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert not (run.root / "report.html").exists()


def test_a_run_that_was_killed_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create(experiment())
    assert main(["report", str(run.root)]) == 2
    assert re.fullmatch(r"fedsim: .* not finished .* --resume\n", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_where_no_run_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"not a directory|neither a run nor a sweep"):
        write_report(tmp_path / name, redact=False)


@pytest.mark.slow
def test_a_broken_manifest_is_said_and_no_more(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", rounds=1, batch=1)
    _spoil(run, "manifest.json", "{")
    html = write_report(run.root, redact=False).read_text(encoding="utf-8")
    assert "missing or broken" in html


EMPTY: dict[str, Any] = {"attacks": [], "leakage": {}, "verdicts": {}, "utility": None, "notes": []}


def test_a_run_without_attacks_has_a_report(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", rounds=1, batch=1, summary=EMPTY)
    _spoil(run, "reconstructions.jsonl", "")
    html = write_report(run.root, redact=False).read_text(encoding="utf-8")
    assert "Nothing was attacked" in html
    assert "It was not measured" in html


def test_guarantee_bound_wire_and_bytes_are_shown(tmp_path: Path) -> None:
    more = {
        "guarantee": {"epsilon": 3.25, "delta": 1e-5, "unit": "client", "accountant": "prv"},
        "wire": {
            "bytes_up": 1234,
            "defenses": [{"defense": "dp-sgd", "noise_std": {"mean": 0.0625}}],
        },
    }
    run = synthetic_run(tmp_path / "run", rounds=1, batch=1, summary=more)
    summary = read_json(run.root / "summary.json")
    summary["attacks"][0]["bound"] = {"nats": 0.5, "exact_match": 0.375}
    write_json(run.root / "summary.json", summary)
    text = Reader(write_report(run.root, redact=False).read_text(encoding="utf-8")).text
    for part in (
        "3.25",
        "1e-05",
        "prv",
        "0.0625",
        "1234",
        "0.00123 MB an update",
        "ε = 3.25",
        "38 % of the texts",
        "exact at most",
    ):
        assert part in text, part


def test_json_of_the_summary_may_hold_infinity(tmp_path: Path) -> None:
    run = synthetic_run(
        tmp_path / "run", rounds=1, batch=1, summary={"guarantee": {"epsilon": float("inf")}}
    )
    assert json.loads((run.root / "summary.json").read_text())["guarantee"]["epsilon"] > 1e300
    assert "inf" in write_report(run.root, redact=False).read_text(encoding="utf-8")
