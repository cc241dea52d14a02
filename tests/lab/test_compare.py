import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from fedsim.errors import BadInput
from fedsim.lab.cli import main
from fedsim.lab.compare import ComparedRun, compare, leakage_between
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import Sample
from fedsim.lab.terminal.compare import print_comparison
from tests.lab.conftest import experiment
from tests.lab.runs import go
from tests.lab.synthetic import synthetic_run

pytestmark = pytest.mark.slow  # whole runs

SECTIONS: dict[str, Any] = {
    "federation": {"clients": 3, "clients_per_round": 3, "rounds": 1},
    "data": {"evaluate": 4},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """Runs on the same texts, read wholly and not at all, and one on other texts."""
    root = tmp_path_factory.mktemp("compare")
    made = {
        "read": experiment(**SECTIONS, attack=[{"name": "dager"}]),
        "not read": experiment(**SECTIONS, attack=[{"name": "dager", "max_pairs": 5}]),
        "elsewhere": experiment(**SECTIONS, attack=[{"name": "dager"}], seed=2),
        "no attack": experiment(**SECTIONS),
    }
    for name, config in made.items():
        go(RunDirectory(root / name), config)
    return {name: RunDirectory(root / name) for name in made}


def against(runs: dict[str, RunDirectory], *names: str) -> dict[str, Any]:
    (run,) = compare([runs[name].root for name in names])["runs"]
    return dict(run)


def test_runs_on_the_same_texts_are_paired(runs: dict[str, RunDirectory]) -> None:
    compared = against(runs, "read", "not read")
    leakage = compared["leakage"]["dager"]
    assert leakage["paired"] and leakage["updates"] == 3
    exact = leakage["metrics"]["exact_match"]
    assert (exact["reference"], exact["value"]) == (1.0, 0.0)
    # All three updates lose everything: Wilson for 3 of 3 is 0.4385 to 1.
    assert exact["difference"] == pytest.approx({"mean": -1, "low": -1, "high": -0.4385}, abs=1e-4)
    sides = [runs[name].samples(runs[name].summary()) for name in ("read", "not read")]
    precision = leakage["metrics"].pop("precision")  # of guesses, which are no samples
    assert (precision["reference"], precision["value"]) == (1.0, 0.0)
    for name, figure in leakage["metrics"].items():
        means = [fmean(sample.metrics[name] for sample in side) for side in sides]
        assert [figure["reference"], figure["value"]] == pytest.approx(means)
        assert figure["difference"]["mean"] == pytest.approx(means[1] - means[0])
        assert (
            figure["difference"]["low"]
            <= figure["difference"]["mean"]
            <= figure["difference"]["high"]
        )
    assert compared["verdicts"]["dager"] == ["leak", "leak"]  # by the tokens of what was begun
    assert compared["settings"] == {"attack.0.max_pairs": [None, "5"]}
    assert compared["utility"]["difference"] == 0.0  # attacks change no weights
    assert compared["bytes_up"]["difference"] == 0.0 and compared["epsilon"] is None


def test_a_run_against_itself_differs_in_nothing(runs: dict[str, RunDirectory]) -> None:
    compared = against(runs, "read", "read")
    assert compared["settings"] == {}
    for figure in compared["leakage"]["dager"]["metrics"].values():
        between = figure["difference"]
        assert between["mean"] == 0.0
        assert between["low"] == -between["high"] < 0  # three updates are not all updates


def test_runs_on_other_texts_are_not_paired(runs: dict[str, RunDirectory]) -> None:
    leakage = against(runs, "read", "elsewhere")["leakage"]["dager"]
    assert not leakage["paired"] and leakage["updates"] == [3, 3]
    exact = leakage["metrics"]["exact_match"]["difference"]
    precision = leakage["metrics"]["precision"]
    assert (precision["reference"], precision["value"]) == (1.0, 1.0)
    assert precision["difference"] == pytest.approx(
        exact
    )  # all guesses are right, as all texts were read
    # Both 3 of 3, Wilson 0.4385 to 1; Newcombe: 0 -+ (1 - 0.4385).
    assert exact == pytest.approx({"mean": 0, "low": -0.5615, "high": 0.5615}, abs=1e-4)


def test_a_run_without_attacks_has_no_leakage_to_compare(runs: dict[str, RunDirectory]) -> None:
    compared = against(runs, "no attack", "read")
    assert compared["leakage"] == {} and compared["verdicts"] == {}


def test_what_is_printed(runs: dict[str, RunDirectory], capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(compare([runs[name].root for name in ("read", "not read", "elsewhere")]))
    text = capsys.readouterr().out
    assert "3 updates of the same texts in both runs, paired by sample" in text
    assert "not paired" in text and "attack.0.max_pairs: None -> 5" in text
    assert "-1.000 to -0.439" in text  # Wilson for 3 of 3


def test_what_cannot_be_compared(runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"at least two runs, got 1"):
        compare([runs["read"].root])
    with pytest.raises(BadInput, match=r"holds no run"):
        compare([runs["read"].root, tmp_path])
    broken = shutil.copytree(runs["read"].root, tmp_path / "broken")
    for name, text, line in (
        ("samples.jsonl", "", "files do not fit together"),
        ("samples.jsonl", "{\n{}\n", "line 1 is not valid JSON"),
        ("summary.json", "{}", "summary.json: schema: wanted"),
        ("summary.json", "{", "summary.json is not valid JSON"),
        ("summary.json", None, "not finished"),
    ):
        (broken / name).unlink(missing_ok=True)
        if text is not None:
            (broken / name).write_text(text)
        with pytest.raises(BadInput, match=line):
            compare([runs["read"].root, broken])
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(BadInput, match=r"holds a sweep; name runs in it: .*cells/<name>"):
        compare([runs["read"].root, tmp_path])


def test_a_metric_that_no_pair_has_is_not_compared(runs: dict[str, RunDirectory]) -> None:
    first, other = (ComparedRun(runs["read"].root) for _ in range(2))
    for run in (first, other):  # client 0's texts have no word
        run.samples = [
            sample.model_copy(
                update={"metrics": wordless(sample) if not sample.client else sample.metrics}
            )
            for sample in run.samples
            if sample.client < 2
        ]
    other.samples = [  # client 1 held others
        sample.model_copy(update={"truth_tokens": [1, 2]}) if sample.client else sample
        for sample in other.samples
    ]
    compared = leakage_between(first, other, "dager")
    assert compared["paired"] and compared["updates"] == 1
    assert "exact_match" in compared["metrics"] and "rouge1" not in compared["metrics"]
    assert "precision" not in compared["metrics"]  # it is of all updates, which are not compared


def wordless(sample: Sample) -> dict[str, float]:
    return {name: value for name, value in sample.metrics.items() if "rouge" not in name}


def test_of_a_sweeps_cells_the_reference_is_the_first_without_a_defense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = tmp_path / "sweep" / "cells"
    kinds = {"defense=dp-sgd": "dp-sgd", "defense=none": "none", "defense=topk": "topk"}
    roots = [
        synthetic_run(cells / name, rounds=1, batch=1, sections={"defense": [{"name": kind}]}).root
        for name, kind in kinds.items()  # as a shell writes out cells/*
    ]
    alone = compare(roots)  # runs that are no sweep's
    assert alone["reference"] == str(roots[0])
    assert alone["reference_why"] == "the first that was named, which has a defense"
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    chosen = compare(roots)
    assert chosen["reference"] == str(roots[1])
    assert chosen["reference_why"] == "the first without a defense"
    assert [one["run"] for one in chosen["runs"]] == [str(roots[0]), str(roots[2])]
    assert compare([roots[0], roots[2]])["reference"] == str(roots[0])  # there is none
    words = ["compare", *map(str, roots), "--reference", str(roots[2])]
    assert main(words) == 0
    assert f"Reference: {roots[2]} (as asked for)" in capsys.readouterr().out
    assert main(["compare", str(roots[0]), "--reference", str(roots[0])]) == 2
    assert "at least two runs, got 1" in capsys.readouterr().err
