"""Counts of labels, against labels that were drawn and a plain sum of p - y."""

import pytest
import torch

from attacks.reads import label_counts


@pytest.mark.parametrize("examples", [1, 2, 7])
def test_the_counts_of_labels_are_those_that_were_drawn(examples: int) -> None:
    generator = torch.Generator().manual_seed(examples)
    chances = torch.rand(examples, 3, generator=generator, dtype=torch.float64).softmax(dim=1)
    labels = torch.randint(3, (examples,), generator=generator).tolist()
    slopes = torch.zeros(3, dtype=torch.float64)
    for row, label in enumerate(labels):
        slopes += chances[row]
        slopes[label] -= 1.0
    counts, whole = label_counts(chances.mean(dim=0), slopes, examples, 1e-6)
    assert counts.tolist() == [labels.count(label) for label in range(3)] and whole


def test_only_the_number_of_examples_that_fits_is_whole() -> None:
    """By hand: p = (0.3, 0.7), three examples with labels 0, 1, 1: m p - c = (-0.1, 0.1)."""
    chances, slopes = torch.tensor([0.3, 0.7]), torch.tensor([3 * 0.3 - 1, 3 * 0.7 - 2])
    examples = torch.arange(1, 6)[:, None]
    counts, whole = label_counts(chances, slopes, examples, 0.01)
    assert whole.tolist() == [False, False, True, False, False]
    assert counts[2].tolist() == [1, 2]


@pytest.mark.parametrize("slopes", [[2.0, -1.0], [float("nan"), 0.0], [0.3, -0.3]])
def test_what_no_counts_explain_is_not_whole(slopes: list[float]) -> None:
    """By hand: a count of -1, none, one of 0.7."""
    _, whole = label_counts(torch.tensor([1.0, 0.0]), torch.tensor(slopes), 1, 0.25)
    assert not whole
