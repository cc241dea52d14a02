"""What is said about the global model, against plain counting."""

from typing import Any

import numpy as np
import pytest
import torch

import fedsim.lab.run.utility
from fedsim.lab.run.utility import classified, confusion, course, utility, utility_before
from fedsim.lab.store.rounds import RoundRecord
from fedsim.training import Examples
from tests.lab.conftest import preset


def table(true: list[int], guessed: list[int], classes: int) -> torch.Tensor:
    counts = torch.zeros(classes, classes, dtype=torch.float64)
    for row, column in zip(true, guessed, strict=True):
        counts[row, column] += 1
    return counts


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_metrics_of_a_confusion_matrix_agree_with_counting(classes: int) -> None:
    draw = np.random.default_rng(classes)
    true, guessed = draw.integers(classes, size=41), draw.integers(classes, size=41)
    guessed[::2] = true[::2]
    measured = classified(table(true.tolist(), guessed.tolist(), classes))
    assert measured["accuracy"] == pytest.approx((true == guessed).mean())
    # R_K is the correlation of the one-hot codes: their covariance over the two spreads.
    one_hot = np.eye(classes)
    x, y = one_hot[true], one_hot[guessed]
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    assert measured["mcc"] == pytest.approx(expected)
    scores = []
    for kind in range(classes):
        hit = ((true == kind) & (guessed == kind)).sum()
        precision, recall = hit / (guessed == kind).sum(), hit / (true == kind).sum()
        scores.append(2 * precision * recall / (precision + recall))
    assert measured["f1"] == pytest.approx(np.mean(scores))


def test_of_two_classes_mcc_is_matthews_own() -> None:
    tp, fn, fp, tn = 7, 3, 2, 11
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    measured = classified(torch.tensor([[tn, fp], [fn, tp]], dtype=torch.float64))
    assert measured["mcc"] == pytest.approx((tp * tn - fp * fn) / root)


def test_one_answer_for_everything_correlates_with_nothing() -> None:
    measured = classified(torch.tensor([[5.0, 0.0], [3.0, 0.0]], dtype=torch.float64))
    assert measured == {"accuracy": 5 / 8, "f1": pytest.approx(10 / 13 / 2), "mcc": 0.0}


def test_the_confusion_matrix_has_true_classes_in_rows() -> None:
    adapter = preset()
    ids = adapter.tokenizer([f"text number {place}" for place in range(35)])["input_ids"]
    examples = Examples(sequences=tuple(map(tuple, ids)), labels=(1, 0, 0, 1, 0) * 7)
    weights = adapter.initial_parameters()
    module, expected = adapter.load(weights), torch.zeros(2, 2, dtype=torch.float64)
    for tokens, label in zip(examples.sequences, examples.labels, strict=True):
        expected[label, module(input_ids=torch.tensor([tokens])).logits.argmax()] += 1
    assert torch.equal(confusion(adapter, weights, examples), expected)
    assert utility(adapter, weights, examples) == classified(expected)


def test_the_weights_that_cells_start_from_are_measured_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter, count = preset(), 0

    def measure(*_: Any) -> dict[str, float]:
        nonlocal count
        count += 1
        return {"accuracy": float(count)}

    def measured(checksum: str, label: int) -> dict[str, float]:
        held_out = Examples(sequences=((1, 2),), labels=(label,))
        return utility_before(adapter, {}, held_out, checksum)

    monkeypatch.setattr(fedsim.lab.run.utility, "utility", measure)
    assert measured("a", 0) == measured("a", 0) == {"accuracy": 1.0}
    measured("a", 0)["accuracy"] = 9.0  # a caller's copy
    assert measured("a", 0) == {"accuracy": 1.0}
    assert measured("b", 0) == {"accuracy": 2.0}  # other weights
    assert measured("b", 1) == {"accuracy": 3.0}  # other text


def measured(round_: int, **figures: float) -> RoundRecord:
    return RoundRecord(
        round=round_,
        utility=figures.get("accuracy"),
        measures=figures or None,
        checksum="",
        seconds=1.0,
    )


def test_the_course_of_a_run_has_every_metric() -> None:
    rounds = [
        measured(0, accuracy=0.5, f1=0.4, mcc=0.0),
        measured(1, accuracy=0.6, f1=0.5, mcc=0.2),
        measured(2, accuracy=0.7, f1=0.6, mcc=0.3),
    ]
    utility = course("classification", rounds)
    assert utility is not None and utility.as_dict() == {
        "metric": "accuracy", "before": 0.5, "after": 0.7, "per_round": [0.6, 0.7],
        "others": {
            "f1": {"before": 0.4, "after": 0.6, "per_round": [0.5, 0.6]},
            "mcc": {"before": 0.0, "after": 0.3, "per_round": [0.2, 0.3]},
        },
    }  # fmt: skip
    assert course("classification", [*rounds, measured(3)]) is None
    assert course("classification", []) is None
    assert course("causal-lm", rounds) is None  # its own metric is not there


def test_where_no_token_is_predicted_there_is_no_perplexity() -> None:
    adapter = preset("bert-tiny", "masked-lm")
    words = tuple(adapter.tokenizer("Nora has a rash since Tuesday.")["input_ids"])
    hollow = (adapter.tokenizer.cls_token_id, adapter.tokenizer.sep_token_id)
    weights = adapter.initial_parameters()
    alone = Examples(sequences=(hollow, hollow), labels=(None, None))
    both = Examples(sequences=(hollow, words), labels=(None, None))
    assert utility(adapter, weights, alone) == {}
    assert utility(adapter, weights, both)["perplexity"] > 1
