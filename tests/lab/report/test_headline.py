"""The headline is the run's verdict, by the attack that it rests on."""

from typing import Any

import pytest

from fedsim.lab.report.run_page import headline
from fedsim.lab.store.summary import Summary


def spread(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean, "high": mean}


FIGURES: dict[str, dict[str, Any]] = {
    "dager": {"bag_f1": spread(0.1)},
    "bag": {"counted_f1": spread(0.2), "counted_recall": spread(0.11)},
    "membership": {"tpr": spread(0.5), "fpr": spread(0.02)},
    "own": {},  # somebody else's attack, of which no figure of ours is
}


def said(whole: str, **verdicts: str) -> str:
    tree = {
        "schema": 1, "name": "one", "seed": 1, "attacks": [],
        "leakage": {name: FIGURES[name] for name in verdicts},
        "verdicts": {name: {"verdict": verdict} for name, verdict in verdicts.items()},
        "verdict": {"verdict": whole},
    }  # fmt: skip
    return headline(Summary.model_validate(tree), 3, 8)


@pytest.mark.parametrize(
    ("whole", "verdicts", "begins", "names"),
    [
        ("leak", {"dager": "leak", "bag": "leak"}, "It leaks: ", "dager"),
        ("leak", {"dager": "inconclusive", "bag": "leak"}, "It leaks what is there: ", "bag"),
        ("leak", {"dager": "no-leak", "membership": "leak"}, "It leaks who took", "membership"),
        ("leak", {"dager": "no-leak", "bag": "no-leak", "own": "leak"}, "It leaks: ", "own"),
        ("no-leak", {"dager": "no-leak", "bag": "no-leak"}, "No leak was found: ", "each kind"),
        ("inconclusive", {"dager": "no-leak"}, "Inconclusive: ", ""),
        ("inconclusive", {"bag": "no-leak"}, "Inconclusive: ", "bag"),
        ("inconclusive", {"membership": "no-leak"}, "Inconclusive: ", "membership"),
        ("inconclusive", {"own": "inconclusive"}, "Inconclusive: ", ""),
        ("inconclusive", {}, "Nothing was attacked", ""),
    ],
)
def test_it_is_of_the_attack_that_the_verdict_rests_on(
    whole: str, verdicts: dict[str, str], begins: str, names: str
) -> None:
    sentence = said(whole, **verdicts)
    assert sentence.startswith(begins) and names in sentence
    others = set(FIGURES) - {names}
    assert not names or not any(f" {other} " in sentence for other in others)
