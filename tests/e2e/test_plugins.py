"""Plugins of others: a package beside the project, found by its entry points."""

import csv
import json
import sys
from pathlib import Path

import pytest

from fedsim.vault.reader import VaultReader
from tests.e2e.conftest import Fedsim, rows

PACKAGE = '''
"""A defense whose client breaks down over long texts, and an attack that never finds anything."""
from dataclasses import dataclass
from typing import ClassVar

from attacks import Attack
from defenses import Defense
from fedsim.messages import Reconstruction


@dataclass(frozen=True, kw_only=True)
class Fragile(Defense):
    """Break down over a text of more than ``longest`` tokens."""

    longest: int = 1000  # tokens; > 0

    def __post_init__(self):
        if self.longest < 1:
            raise ValueError(f"longest must be > 0, got {self.longest}")

    def wrap(self, training):
        def inside(parameters, examples, generator):
            for tokens in examples.sequences:
                if len(tokens) > self.longest:
                    raise ValueError(f"a text of {len(tokens)} tokens is too long")
            return training(parameters, examples, generator)

        return inside


@dataclass(frozen=True, kw_only=True)
class Blind(Attack):
    """See nothing."""

    families: ClassVar = ("gpt2",)

    def _run(self, seen, generator):
        return Reconstruction(sequences=())


@dataclass(frozen=True, kw_only=True)
class Crash(Blind):
    """Fall over."""

    def _run(self, seen, generator):
        raise KeyError("a slip of its author")


@dataclass(frozen=True, kw_only=True)
class Quits(Blind):
    """End the program, as it thinks."""

    def _run(self, seen, generator):
        raise SystemExit(0)
'''
ENTRY_POINTS = """
[fedsim.attacks]
blind = outsider:Blind
crash = outsider:Crash
quits = outsider:Quits
[fedsim.defenses]
fragile = outsider:Fragile
"""
SETTINGS = (
    "data.name=rows.csv", "data.evaluate=0", "federation.clients=4", "federation.rounds=2",
    "federation.clients_per_round=4", "training.batch_size=0", "attack=[]",
)  # fmt: skip
FRAGILE = 'defense=[{name="fragile", longest=30}]'


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the package where Python finds it, as an installer would, and data with one long text."""
    site = tmp_path / "site"
    facts = site / "outsider-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "outsider.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "outsider", raising=False)  # of the test before
    table = [(f"short text {i}", i % 2) for i in range(24)] + [("very " * 40 + "long", 0)]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *table])


def test_plugins_are_listed_with_their_parameters(fedsim: Fedsim) -> None:
    done = fedsim("list", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (fragile,) = [one for one in found["defenses"] if one["name"] == "fragile"]
    assert fragile["parameters"] == {"longest": 1000}
    assert fragile["about"] == "Break down over a text of more than ``longest`` tokens."
    assert {"blind", "crash", "dager"} <= {one["name"] for one in found["attacks"]}


@pytest.mark.slow
def test_a_failing_client_stops_the_run_or_is_noted(fedsim: Fedsim, tmp_path: Path) -> None:
    # With batch_size 0 a client trains on all it holds, so the one with the long text fails.
    stopped = fedsim("run", *SETTINGS, FRAGILE, "--out", "stopped")
    assert stopped.returncode == 4, stopped.stderr
    (line,) = [one for one in stopped.stderr.splitlines() if one.startswith("fedsim: ")]
    assert "Traceback" not in stopped.stderr
    vault = VaultReader(tmp_path / "stopped" / "vault")  # it knew before anything failed
    batches = {client: vault.truth(1, client) for client in range(4)}
    (failing,) = [
        c for c, batch in batches.items() if batch and max(map(len, batch.sequences)) > 30
    ]
    assert f"round 1, client {failing}: " in line
    assert line.endswith(f"its audit/round=1/client={failing}.json says more")
    why = (tmp_path / "stopped" / "audit" / "round=1" / f"client={failing}.json").read_text()
    assert "tokens is too long" in why  # and the server was not told how long

    words = ("federation.on_failure=continue", "--out", "continued", "--json")
    done = fedsim("run", *SETTINGS, FRAGILE, *words)
    assert done.returncode == 0, done.stderr
    failures = json.loads(done.stdout)["failures"]
    assert [(one["round"], one["client"]) for one in failures] == [(1, failing), (2, failing)]
    assert all(one["error"].endswith("json says more") for one in failures)
    others = [client for client in range(4) if client != failing]
    noted = rows(tmp_path / "continued" / "rounds.jsonl")[1:]
    assert [row["clients"] for row in noted] == [others, others]
    assert len({row["checksum"] for row in noted}) == 2  # the others went on


@pytest.mark.slow
def test_an_attack_that_finds_nothing_anywhere_proves_nothing(
    fedsim: Fedsim, tmp_path: Path
) -> None:
    done = fedsim("run", *SETTINGS, "federation.rounds=1", "attack=blind", "--out", "run", "--json")
    assert done.returncode == 3, done.stderr
    summary = json.loads(done.stdout)
    assert {one["verdict"] for one in summary["attacks"]} == {"inconclusive"}
    assert "positive control" in summary["verdicts"]["blind"]["reason"]
    assert summary["leakage"]["blind"]["exact_match"]["mean"] == 0.0

    done = fedsim("attack", "run", "--attack", "crash", "--no-redact")
    assert done.returncode == 3  # what could not run proves nothing either
    assert "a slip of its author" in done.stdout
    said = [one for one in done.stderr.splitlines() if "crash could not run on" in one]
    assert len(said) == 1 and said[0].startswith("round 1: ")  # at once, and once
    line = PACKAGE.splitlines().index('        raise KeyError("a slip of its author")') + 1
    assert f"outsider.py:{line} in _run" in said[0]
    whole = Path(said[0].partition("the whole traceback: ")[2].removesuffix(")"))
    assert (tmp_path / whole).read_text().endswith("KeyError: 'a slip of its author'\n")

    done = fedsim("attack", "run", "--attack", "quits", "--no-redact")
    assert done.returncode == 3 and "quits raised SystemExit: 0" in done.stderr


def test_a_plugins_parameters_are_checked_like_our_own(fedsim: Fedsim, tmp_path: Path) -> None:
    done = fedsim("run", *SETTINGS, 'defense=[{name="fragile", longest=0}]', "--out", "run")
    assert done.returncode == 2
    assert "defense fragile: longest must be > 0, got 0" in done.stderr
    assert not (tmp_path / "run").exists()
