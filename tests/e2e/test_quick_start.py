"""The built-in quick start, by the command, and what is made of it afterwards."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Fedsim, rows

# design.md, section 6: the names that other people's scripts rely on.
FILES = ("config.toml", "manifest.json", "rounds.jsonl", "reconstructions.jsonl", "summary.json")
KEYS = {"schema", "name", "seed", "engine", "rounds", "seconds", "utility", "guarantee", "attacks"}
ENTRY = {"attack", "settings", "knowledge", "round", "client", "samples", "seconds", "verdict"}
METRICS = {"exact_match", "token_accuracy", "bag_f1", "rouge1", "rouge2", "rougeL"}


@pytest.mark.slow
def test_the_quick_start_reads_every_sentence_and_can_be_replayed(
    fedsim: Fedsim, command: Fedsim, tmp_path: Path
) -> None:
    done = command("run", "--json", "--out", "run")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)  # nothing but JSON on stdout
    run = tmp_path / "run"
    assert summary == json.loads((run / "summary.json").read_text())
    assert KEYS <= set(summary) and "leakage" in summary
    assert summary["guarantee"] is None
    assert set(summary["utility"]) == {"metric", "before", "after", "per_round", "others"}
    assert len(summary["utility"]["per_round"]) == summary["rounds"] == 2
    for entry in summary["attacks"]:
        assert ENTRY <= set(entry) and METRICS <= set(entry["metrics"])
        assert set(entry["controls"]) == {"no_gradient", "other_update", "positive"}
        assert entry["metrics"]["exact_match"] == 1.0  # no sentence of a batch begins another
        assert entry["controls"]["other_update"]["exact_match"] == 0.0
        assert entry["verdict"] == "leak"
        place = f"round={entry['round']}/client={entry['client']}"
        for name in ("update.safetensors", "broadcast.safetensors", "observation.json"):
            assert (run / "captures" / place / name).is_file()
        assert (run / "vault" / f"{place}.jsonl").is_file()
    assert summary["leakage"]["dager"]["exact_match"]["mean"] == 1.0
    assert all((run / name).is_file() for name in FILES)
    assert list((run / "checkpoints").iterdir())

    replay = fedsim("attack", "run", "--attack", "dager", "--out", "again", "--json")
    assert replay.returncode == 0, replay.stderr
    live = {(r["round"], r["client"], r["role"]): r for r in rows(run / "reconstructions.jsonl")}
    for row in rows(tmp_path / "again" / "reconstructions.jsonl"):
        same = live[row["round"], row["client"], row["role"]]
        assert row["sequences"] == same["sequences"]
    assert json.loads(replay.stdout)["leakage"] == summary["leakage"]

    again = fedsim("run", "--out", "run")
    assert again.returncode == 2 and "--resume" in again.stderr
    finished = fedsim("run", "--out", "run", "--resume", "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["checksum"] == summary["checksum"]


@pytest.mark.slow
def test_quick_gives_no_verdict(fedsim: Fedsim) -> None:
    done = fedsim("run", "--quick", "federation.rounds=1")
    assert done.returncode == 3, done.stderr
    assert "inconclusive" in done.stdout and "controls were skipped" in done.stdout


def test_what_there_is_can_be_listed(fedsim: Fedsim) -> None:
    done = fedsim("list", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"attacks", "defenses", "models", "data"}
    attacks = {one["name"]: one for one in found["attacks"]}
    known = {"bag", "dager", "dlg", "film", "grab", "labels", "lamp", "lti", "membership"}
    known |= {"partial", "tag"}
    assert set(attacks) == known
    assert {"max_prefixes", "max_pairs", "max_searches"} == set(attacks["dager"]["parameters"])
