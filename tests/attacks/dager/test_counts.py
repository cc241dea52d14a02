"""How often each text was in a batch: against all ways to choose labels, and against sums."""

from collections.abc import Sequence
from itertools import combinations_with_replacement, product
from time import process_time
from typing import Any

import pytest
import torch

from attacks.dager.counts import Counts, SeenTexts, count

ROUNDING = 1e-9


def batch(chances: torch.Tensor, counts: Sequence[Sequence[int]], share: float) -> torch.Tensor:
    """Return what comes back of texts with ``counts`` examples by label: the definition."""
    rows = [
        sum((chance - torch.eye(len(some))[label].double() for label in range(len(some))
             for _ in range(some[label])), start=torch.zeros(len(some)).double()) * share
        for chance, some in zip(chances, counts, strict=True)
    ]  # fmt: skip
    return torch.stack(rows)


def texts(
    chances: torch.Tensor, amounts: torch.Tensor, there: Sequence[bool], doubt: float = ROUNDING
) -> SeenTexts:
    return SeenTexts(
        chances=chances,
        slack=torch.full_like(chances, ROUNDING),
        amounts=amounts,
        doubt=torch.full((len(chances),), doubt * float(amounts.abs().max())).double(),
        there=torch.tensor(there),
    )


def drawn(generator: torch.Generator, labels: int) -> torch.Tensor:
    """Return the label probabilities of three texts."""
    return torch.randn(3, labels, generator=generator).double().mul(3).softmax(dim=1)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.slow
def test_counts_are_found_or_left_open_but_never_wrong(told: bool, labels: int) -> None:
    generator = torch.Generator().manual_seed(labels)
    some = [labels_of for labels_of in product(range(3), repeat=labels) if 0 < sum(labels_of) <= 3]
    determined = total = 0
    for pair in list(combinations_with_replacement(some, 2))[::2]:
        chances = drawn(generator, labels)
        truth = [*map(sum, pair), 0]  # the third text was not there
        examples = sum(truth)
        amounts = batch(chances, [*pair, (0,) * labels], 7.0 / examples)
        seen = texts(chances, amounts, (True, True, False))
        found = count(seen, examples, 7.0 / examples if told else None)
        assert found is None or not found.sure or list(found.times) == truth
        determined += found is not None and found.sure
        total += 1
        unseen = count(seen, examples + 1, 7.0 / (examples + 1) if told else None)
        assert unseen is None or not unseen.sure  # one example is missing: no text takes its place
    assert determined >= (total if told else 0.6 * total)


def test_a_text_that_vanished_is_no_copy_of_another() -> None:
    chances = torch.tensor([[0.3, 0.7], [0.6, 0.4]]).double()
    amounts = batch(chances, [(1, 0), (0, 1)], 1 / 4)  # two of four examples left no trace
    found = count(texts(chances, amounts, (True, True)), 4, 1 / 4)
    assert found == Counts((1, 1), False)


def test_one_that_both_labels_silence_is_counted_still() -> None:
    chances = torch.tensor([[0.501, 0.499], [0.3, 0.7], [0.6, 0.4]]).double()
    amounts = batch(chances, [(1, 1), (1, 0), (0, 1)], 1 / 4)
    assert amounts[0].abs().max() < 1e-2 * amounts.abs().max()  # what was taken for noise
    assert count(texts(chances, amounts, (True,) * 3), 4, 1 / 4) == Counts((2, 1, 1), True)


def test_a_text_that_is_there_is_one_example_at_least_and_one_that_may_be_none() -> None:
    chances = torch.tensor([[1.0, 0.0], [0.6, 0.4]]).double()
    amounts = batch(chances, [(1, 0), (0, 1)], 1 / 2)  # the first fits its label to the last bit
    assert count(texts(chances, amounts, (True, True)), 2, 1 / 2) == Counts((1, 1), True)
    assert count(texts(chances, amounts, (False, True)), 2, 1 / 2) == Counts((0, 1), False)


def test_what_two_counts_explain_is_left_open() -> None:
    even = torch.full((2, 2), 0.5, dtype=torch.float64)  # one example looks like three then
    amounts = batch(even, [(1, 0), (1, 2)], 1 / 4)
    found = count(texts(even, amounts, (True, True)), 4, 1 / 4)
    assert found == Counts((1, 1), False)


def test_what_noise_blurs_is_left_open() -> None:
    chances = torch.tensor([[0.3, 0.7], [0.6, 0.4]]).double()
    amounts = batch(chances, [(2, 0), (0, 1)], 1 / 3)
    assert count(texts(chances, amounts, (True, True)), 3, 1 / 3) == Counts((2, 1), True)
    blurred = texts(chances, amounts, (True, True), doubt=0.6)
    assert count(blurred, 3, 1 / 3) == Counts((1, 1), False)


@pytest.mark.parametrize("examples", [0, 1, 1025, 10**12])
def test_a_number_of_examples_that_cannot_be_gives_none(examples: int) -> None:
    chances = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    amounts = batch(chances, [(1, 0), (0, 1)], 1 / 2)
    share = 1 / examples if examples else None
    assert count(texts(chances, amounts, (True, True)), examples, share) is None


def test_another_share_than_the_protocols_is_tried_only_where_that_cannot_be() -> None:
    chances = torch.tensor([[0.3, 0.7], [0.6, 0.4]]).double()
    clipped = batch(chances, [(2, 0), (0, 1)], 1 / 3 / 17)
    assert count(texts(chances, clipped, (True, True)), 3, 1 / 3) == Counts((2, 1), True)
    twice = batch(chances, [(2, 0), (0, 2)], 1 / 4 / 17)  # or two texts, and two that vanished
    found = count(texts(chances, twice, (True, True)), 4, 1 / 4)
    assert found is None or not found.sure


@pytest.mark.parametrize(("labels", "examples"), [(30, 1024), (600, 1024), (2, 10**6)])
def test_counting_ends_soon_and_says_where_it_did_not_begin(labels: int, examples: int) -> None:
    chances = torch.rand(1, labels, generator=torch.Generator().manual_seed(1)).double()
    chances = chances.softmax(dim=1)
    began, notes = process_time(), dict[str, Any]()
    amounts = chances.flip(1) - 1 / labels  # of no number of examples
    assert count(texts(chances, amounts, (True,)), examples, None, notes=notes) is None
    assert process_time() - began < 10  # it was half a minute
    assert notes == ({} if labels == 30 else {"cut": True})


def test_shares_that_are_not_even_count_no_copies() -> None:
    chances = torch.tensor([[0.3, 0.7], [0.6, 0.4]]).double()
    scaled = batch(chances, [(2, 0), (0, 1)], 1 / 17)
    found = count(texts(chances, scaled, (True, True)), 3, None)
    assert found == Counts((2, 1), True)
    uneven = count(texts(chances, scaled, (True, True)), 3, None, even=False)
    assert uneven == Counts((2, 1), False)
    once = batch(chances, [(1, 0), (0, 1)], 1 / 17)
    assert count(texts(chances, once, (True, True)), 2, None, even=False) == Counts((1, 1), True)


def test_a_text_that_may_not_be_there_must_stand_far_out_of_doubt() -> None:
    chances = torch.tensor([[1 - 1.5e-5, 1.5e-5], [0.05, 0.95]]).double()
    amounts = batch(chances, [(0, 0), (1, 0)], 1 / 2)
    amounts[0] = torch.tensor([-0.9e-5, 0.9e-5]).double()  # of another text, seen much as the first
    vague = texts(chances, amounts, (False, True), doubt=1.6e-5)
    assert count(vague, 2, 1 / 2) == Counts((1, 1), False)
    known = texts(chances, amounts, (True, True), doubt=1.6e-5)
    assert count(known, 2, 1 / 2) == Counts((1, 1), True)
    sharp = texts(chances, batch(chances, [(1, 0), (1, 0)], 1 / 2), (False, True), doubt=1e-9)
    assert count(sharp, 2, 1 / 2) == Counts((1, 1), True)
