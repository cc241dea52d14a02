"""Texts stay where they are wanted: off whatever is printed where nobody looks on."""

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from clients.corpus import clinic
from fedsim.errors import BadInput, quote
from fedsim.files import read_json, write_json
from fedsim.lab.cli import main
from fedsim.lab.commands.base import display_for, redacts
from fedsim.lab.store.quoting import told, without_quotes
from fedsim.lab.store.summary import read_summary
from tests.lab.synthetic import synthetic_run

ROOT = Path(__file__).parents[2]
MARK = "Birkett"
SMALL = (
    "federation.rounds=1", "federation.clients=2", "data.max_length=12", "data.evaluate=8",
    "training.batch_size=2", "--quick",
    'attack=[{name="dager"},{name="lamp",steps=2,starts=2,tries=0,clients=[0]}]',
)  # fmt: skip
HINT = "--no-redact prints it"


# When


@pytest.mark.parametrize(
    ("asked", "out", "err", "results", "progress"),
    [
        (None, True, True, False, False),
        (None, False, True, True, True),
        (None, True, False, False, True),  # as 2> log has it
        (True, True, True, True, True),
        (False, False, False, False, False),
    ],
)
def test_texts_are_left_out_where_nobody_looks_on_or_where_asked(
    asked: bool | None, out: bool, err: bool, results: bool, progress: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: err, raising=False)
    options = argparse.Namespace(redact=asked)
    assert redacts(options) is results
    assert redacts(options, progress=True) is progress


def test_the_note_is_said_once_and_not_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(redact=None, json=False)
    for there, notes in ((True, 0), (False, 1)):
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda there=there: there, raising=False)
        with display_for(options) as display:  # rich puts streams of its own there
            display.say("at work")
            assert display.redact is not there
        assert capsys.readouterr().err.count("--no-redact prints them") == notes


# Errors


def broken(name: str) -> str:
    """Return what a file of data that is no such holds."""
    return {
        "headless.csv": f"{MARK} called,rash\n{MARK} rang,cough\n{MARK} wrote,fever\n",
        "several.csv": f"{MARK}: rash\na: b\nc: d\n",
        "turns.jsonl": json.dumps({"messages": [{"role": "user", "said": MARK}]}),
        "lone.jsonl": json.dumps({MARK: "\ud800", "label": 1}),
    }[name]


@pytest.mark.parametrize(
    ("name", "words", "kept"),
    [
        ("headless.csv", (), "data.text_column must be given"),
        ("headless.csv", ("data.text_column=text",), "unknown data.text_column 'text'"),
        ("headless.csv", ("data.template=alpaca",), "takes the columns"),
        ("headless.csv", ("data.template=t.txt",), "unknown column 'txt'"),
        ("several.csv", (), "all its texts have ':'"),
        ("turns.jsonl", ("data.template=chat",), "row 1: wanted a list of objects"),
        ("lone.jsonl", (), "got a lone surrogate"),
    ],
)
def test_an_error_does_not_quote_the_data(
    name: str, words: tuple[str, ...], kept: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedsim.lab.commands.base.processes", lambda: None)
    Path(name).write_text(broken(name))
    Path("t.txt").write_text("{txt}")
    said = {}
    for more in ((), ("--no-redact",)):
        run = ("run", "model.name=builtin:gpt2-tiny", f"data.name={name}", "attack=[]")
        assert main([*run, "data.evaluate=0", *words, "--out", "run", *more]) == 2
        said[more] = capsys.readouterr().err.splitlines()[-1]
    assert MARK not in said[()] and kept in said[()] and HINT in said[()]
    assert MARK in said["--no-redact",] and HINT not in said["--no-redact",]


def test_nor_does_one_about_a_runs_own_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = synthetic_run(tmp_path / "run", rounds=1, clients=1, batch=1, texts=[f"{MARK} rang"])
    (row,) = run.rows("samples.jsonl")
    (run.root / "samples.jsonl").write_text(json.dumps(row | {"truth_tokens": row["truth"]}))
    for command in ("report", "compare"):
        again = [str(run.root)] * (2 if command == "compare" else 1)
        assert main([command, *again]) == 2
        line = capsys.readouterr().err
        assert "truth_tokens: wanted" in line and MARK not in line and HINT in line


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (BadInput(f"got {quote(MARK)}"), rf"fedsim: got … \(… is the data's; {HINT}\)"),
        (SystemExit(MARK), r"fedsim: .* called exit\(…\)"),
        (ValueError(MARK), r"(?s).*, in broken\n.*ValueError: … \(--no-redact .*a bug.*"),
    ],
)
def test_nor_does_whatever_else_ends_a_command(
    error: BaseException, wanted: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def broken(_: object) -> int:
        raise error

    monkeypatch.setattr("fedsim.lab.commands.list._list", broken)
    main(["list"])
    line = capsys.readouterr().err
    assert MARK not in line and re.fullmatch(wanted, line.strip())
    main(["list", "--no-redact"])
    assert MARK in capsys.readouterr().err


@pytest.mark.parametrize(
    ("quotes", "redact", "shown"),
    [(True, True, False), (None, True, False), (False, True, True), (True, False, True)],
)
def test_why_a_cell_failed_is_told_where_that_quotes_nothing(
    quotes: bool | None, redact: bool, shown: bool
) -> None:
    line = told(MARK, quotes, redact=redact)
    assert line is not None and (MARK in line) is shown
    assert told(None, quotes, redact=redact) is None


# Results


def test_an_attacks_own_words_stay_in_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = synthetic_run(tmp_path / "run", rounds=1, clients=1)
    path = run.root / "summary.json"
    summary = read_json(path)
    reason = f"The attack could not run: at {MARK}."
    summary["attacks"][0] |= {"error": f"dager raised ValueError: {MARK}", "reason": reason}
    summary["verdicts"]["dager"] |= {"verdict": "inconclusive", "reason": reason}
    summary["verdict"] = {"verdict": "inconclusive", "reason": f"dager: {reason}"}
    summary["notes"] = [f"an attack could not run: {MARK}"]
    write_json(path, summary)
    redacted = without_quotes(read_summary(run.root)).as_dict()
    assert MARK not in json.dumps(redacted)
    assert redacted["verdicts"]["dager"]["reason"] == "The attack could not run."
    assert redacted.keys() == summary.keys()
    assert [set(entry) for entry in redacted["attacks"]] == [set(e) for e in summary["attacks"]]
    (tmp_path / "policy.toml").write_text("[verdict]\nallow = ['no-leak']\n")
    gate = ["gate", str(run.root), "--policy", str(tmp_path / "policy.toml"), "--json"]
    main(gate)
    assert MARK not in capsys.readouterr().out


def test_a_page_that_nobody_looks_on_at_holds_no_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = synthetic_run(tmp_path / "run", rounds=1, clients=1, texts=[f"{MARK} rang"], read=1.0)
    page = run.root / "report.html"
    for words, texts in ((["--no-redact"], True), ([], False)):
        assert main(["report", str(run.root), *words]) == 0
        out, err = capsys.readouterr()
        assert out == f"{page}\n"
        assert (MARK in page.read_text()) is texts
        assert ("--no-redact puts them in" in err) is not texts
    assert MARK in (run.root / "samples.jsonl").read_text()  # a run's own files stay


# The example's workflow


def commands() -> list[list[str]]:
    """Return what the example's workflow has fedsim do, word by word."""
    text = (ROOT / "examples" / "gate" / "workflow.yml").read_text(encoding="utf-8")
    steps: list[dict[str, Any]] = yaml.safe_load(text)["jobs"]["gate"]["steps"]
    lines = [step["run"].partition("||")[0] for step in steps if "run" in step]
    return [shlex.split(line)[1:] for line in lines if line.startswith("fedsim ")]


@pytest.mark.slow
def test_the_log_of_the_examples_workflow_holds_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    monkeypatch.setattr("fedsim.lab.terminal.run.PAUSE", 0.0)  # every line of progress
    log = ""
    assert [words[0] for words in commands()] == ["run", "report", "gate"]
    for words in commands():
        assert main([*words, *(SMALL if words[0] == "run" else ())]) in (0, 1, 3)
        log += "".join(capsys.readouterr())
    log += Path("gate.md").read_text()  # which goes into the job's summary
    samples = [json.loads(line) for line in Path("run/samples.jsonl").read_text().splitlines()]
    read = [text for sample in samples for text in (sample["truth"], sample["guess"])]
    assert len(samples) == 6 and all(sample["truth"] for sample in samples)
    own = {word for text, _ in clinic() for word in re.findall(r"[A-Za-z]{6,}", text)}
    found = {word for text in read for word in re.findall(r"[A-Za-z]{6,}", text)} | own
    found -= {"attack", "before", "policy", "report", "results", "update"}  # of the log's own
    left = {word for word in found if re.search(rf"\b{word}\b", log)}
    assert not left
    assert re.search(r"step 0/2, distance [0-9.]+: …", log)  # and lamp was at work
    assert log.count("Texts are left out") == 1
