"""How often each text was in a batch: against all ways to choose labels, and against sums."""

from itertools import combinations_with_replacement, product

import pytest
import torch

from attacks.dager.counts import whole_counts


def batch(
    chances: torch.Tensor, counts: list[tuple[int, ...]], scale: float
) -> tuple[torch.Tensor, int]:
    """Return what comes back of texts with ``counts`` examples by label: the definition."""
    examples = sum(map(sum, counts))
    rows = [
        sum(chance - torch.eye(len(some))[label].double() for label in range(len(some))
            for _ in range(some[label])) / examples * scale
        for chance, some in zip(chances, counts, strict=True)
    ]  # fmt: skip
    return torch.stack(rows), examples


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("labels", [2, 3])
def test_counts_are_found_or_left_open_but_never_wrong(scale: float, labels: int) -> None:
    generator = torch.Generator().manual_seed(labels)
    some = [labels_of for labels_of in product(range(3), repeat=labels) if 0 < sum(labels_of) <= 3]
    determined = total = 0
    for pair in list(combinations_with_replacement(some, 2))[::2]:
        chances = torch.rand(2, labels, generator=generator, dtype=torch.float64)
        chances = chances / chances.sum(dim=1, keepdim=True)
        amounts, examples = batch(chances, list(pair), scale)
        counts = whole_counts(chances, amounts, examples)
        assert counts in (None, [sum(labels_of) for labels_of in pair])
        if scale == 1.0 or any(labels_of.count(0) == labels - 1 for labels_of in pair):
            determined += counts is not None  # else nothing tells one share
            total += 1
    assert determined > 0.8 * total


def test_what_two_counts_explain_is_left_open() -> None:
    even = torch.full((2, 2), 0.5, dtype=torch.float64)  # one example looks like three then
    amounts, examples = batch(even, [(1, 0), (1, 2)], 1.0)
    assert whole_counts(even, amounts, examples) is None


@pytest.mark.parametrize("examples", [0, 1, 1025, 10**12])
def test_a_number_of_examples_that_cannot_be_gives_none(examples: int) -> None:
    chances = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    amounts, _ = batch(chances, [(1, 0), (0, 1)], 1.0)
    assert whole_counts(chances, amounts, examples) is None
