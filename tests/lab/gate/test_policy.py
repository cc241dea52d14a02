"""A policy is read whole or not at all: each slip is one line that names the nearest key."""

from pathlib import Path

import pytest

from fedsim.errors import BadInput
from fedsim.lab.gate import Policy, read_policy, unnamed


def policy(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return read_policy(path, attacks={"dager", "dager-2", "ours"}, utilities={"accuracy", "wit"})


def test_every_part(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """
        [leakage.dager]
        exact_match = { max = 0.05 }
        rouge1 = { max = 30 }
        precision = { max = 0.2 }
        [leakage.ours]
        bag_f1 = { max = 0.5 }
        [utility]
        wit = { min = 3 }
        [guarantee]
        epsilon = { max = 8 }
        delta = { max = 1e-5 }
        [verdict]
        allow = ["no-leak"]
        """,
    )
    assert [(one.key, one.max, one.min) for one in found.thresholds] == [
        ("leakage.dager.exact_match", 0.05, None),
        ("leakage.dager.rouge1", 30, None),
        ("leakage.dager.precision", 0.2, None),
        ("leakage.ours.bag_f1", 0.5, None),
        ("utility.wit", None, 3),
        ("guarantee.epsilon", 8, None),
        ("guarantee.delta", 1e-5, None),
    ]
    assert found.allow == ("no-leak",)


def test_an_attack_that_exists_but_was_not_run_is_no_slip(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[leakage.dager-3]\nbag_f1 = { max = 0.9 }")
    assert read_policy(path, attacks=(), utilities=()).thresholds[0].attack == "dager-3"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[leakge.dager]\nbag_f1 = { max = 1 }", "unknown key 'leakge'; did you mean 'leakage'"),
        ("[leakage.dagger]\nbag_f1 = { max = 1 }", "did you mean 'leakage.dager'"),
        ("[leakage.dager]\nexact = { max = 1 }", "did you mean 'leakage.dager.exact_match'"),
        ("[leakage.dager]\nbag_f1 = { maximum = 1 }", "did you mean 'leakage.dager.bag_f1.max'"),
        ("[leakage.dager]\nbag_f1 = 0.5", "bag_f1: wanted a table with at least one key, got 0.5"),
        ("[leakage.dager]\nbag_f1 = {}", "bag_f1: wanted a table with at least one key, got {}"),
        ("[leakage.dager]\n", "leakage.dager: wanted a table with at least one key"),
        ("leakage = 3", "leakage: wanted a table"),
        ("[leakage]\ndager = 3", "leakage.dager: wanted a table"),
        ("[leakage.dager]\nbag_f1 = { max = '1' }", "bag_f1.max: wanted a number, got '1'"),
        ("[leakage.dager]\nbag_f1 = { max = true }", "bag_f1.max: wanted a number, got True"),
        ("[leakage.dager]\nbag_f1 = { max = nan }", "wanted a finite number from 0 to 1, got nan"),
        ("[leakage.dager]\nbag_f1 = { max = 5 }", "wanted a finite number from 0 to 1, got 5"),
        ("[leakage.dager]\nrouge1 = { max = -1 }", "wanted a finite number from 0 to 100, got -1"),
        ("[leakage.dager]\nexact_match = { min = 0.05 }", "wanted max, got min"),
        ("[guarantee]\nepsilon = { min = 8 }", "guarantee.epsilon.min: more of it is no better"),
        ("[leakage.dager]\nexact_match = { max = 1 }", "exact_match.max: 1 allows everything"),
        ("[leakage.dager]\nrouge1 = { max = 100.0 }", "rouge1.max: 100.0 allows everything"),
        ("[utility]\naccuracy = { min = 0 }", "accuracy.min: 0 allows everything"),
        ("[utility]\nmcc = { min = -1 }", "mcc.min: -1 allows everything"),
        ("[guarantee]\nepsilon = { max = 8 }", "epsilon: says nothing without a guarantee.delta"),
        ("[utility]\nacuracy = { min = 0.5 }", "did you mean 'utility.accuracy'"),
        ("[utility]\naccuracy = { min = 80 }", "wanted a finite number from 0 to 1, got 80"),
        ("[guarantee]\nepsilom = { max = 8 }", "did you mean 'guarantee.epsilon'"),
        ("[guarantee]\nepsilon = { max = inf }", "wanted a finite number of at least 0, got inf"),
        ("[verdict]\nallowed = ['no-leak']", "did you mean 'verdict.allow'"),
        ("[verdict]\nallow = ['inconclusive']", "'inconclusive' never passes"),
        ("[verdict]\nallow = []", "verdict.allow: wanted a list"),
        ("[verdict]\nallow = 'no-leak'", "verdict.allow: wanted a list"),
        ("[verdict]\nallow = [['leak']]", "verdict.allow: wanted a list"),
        ("", "checks nothing"),
        ("= 3", "not valid TOML"),
    ],
)
def test_slips(text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        policy(tmp_path, text)
    assert line in str(caught.value)


def test_an_attack_that_nothing_is_about_is_told(tmp_path: Path) -> None:
    dager = "[leakage.dager]\nbag_f1 = { max = 0.5 }\n"
    ran = {"dager", "dager-2"}
    assert unnamed(policy(tmp_path, dager), ran) == ["dager-2"]
    assert unnamed(policy(tmp_path, dager + "[verdict]\nallow = ['no-leak']"), ran) == []
    assert unnamed(policy(tmp_path, "[utility]\naccuracy = { min = 0.5 }"), ran) == []
