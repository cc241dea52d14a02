import itertools
import random
import time
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from scipy.optimize import linear_sum_assignment

from fedsim.lab.scoring.metrics import (
    Pair,
    Tokens,
    bag_f1,
    chance_overlaps,
    hits,
    match,
    paper_rouge,
    sample_metrics,
)


def pair(truth: Tokens, guess: Tokens, truth_text: str = "", guess_text: str = "") -> Pair:
    return Pair(truth=truth, guess=guess, truth_text=truth_text, guess_text=guess_text)


def rouge(truth: str, guess: str) -> dict[str, float]:
    metrics = sample_metrics(pair((1,), (), truth, guess), but_last=False)
    return {name: value for name, value in metrics.items() if name.startswith("rouge")}


def naive_f1(truth: Sequence[object], guess: Sequence[object]) -> float:
    left = list(guess)
    common = 0
    for token in truth:
        if token in left:
            left.remove(token)
            common += 1
    return 2 * common / (len(truth) + len(guess))


def naive_similarity(truth: Tokens, guess: Tokens) -> float:
    equal = sum(k < len(guess) and guess[k] == truth[k] for k in range(len(truth)))
    return naive_f1(truth, guess) + equal / len(truth)


def value(
    truths: Sequence[Tokens], guesses: Sequence[Tokens], chosen: Sequence[int | None]
) -> tuple[int, float]:
    """What a matching is worth: exact pairs first, then similarity."""
    paired = [(t, guesses[j]) for t, j in zip(truths, chosen, strict=True) if j is not None]
    return sum(t == g for t, g in paired), sum(naive_similarity(t, g) for t, g in paired)


def draw(dice: random.Random, count: int, *, longest: int = 4, vocabulary: int = 3) -> list[Tokens]:
    return [
        tuple(dice.randrange(vocabulary) for _ in range(dice.randint(1, longest)))
        for _ in range(count)
    ]


# match


@pytest.mark.slow
def test_match_is_as_good_as_the_best_of_all_permutations() -> None:
    dice = random.Random(0)
    for _ in range(300):
        truths, guesses = draw(dice, dice.randint(0, 4)), draw(dice, dice.randint(0, 5))
        slots: list[int | None] = [*range(len(guesses)), *[None] * len(truths)]
        every = itertools.permutations(slots, len(truths))
        exact, similarity = max(value(truths, guesses, one) for one in every)
        got = match(truths, guesses)
        assert value(truths, guesses, got) == pytest.approx((exact, similarity))
        used = [j for j in got if j is not None]
        assert len(set(used)) == len(used) == min(len(truths), len(guesses))


def test_match_is_optimal_on_sizes_too_large_to_enumerate() -> None:
    dice = random.Random(1)
    truths, guesses = (draw(dice, n, longest=13, vocabulary=29) for n in (17, 23))
    assert not set(truths) & set(guesses)  # no exact pairs: plain similarity is the whole value
    matrix = np.array([[naive_similarity(t, g) for g in guesses] for t in truths])
    best = matrix[linear_sum_assignment(matrix, maximize=True)].sum()
    assert value(truths, guesses, match(truths, guesses)) == pytest.approx((0, best))


def test_an_exact_pair_comes_before_a_larger_sum_of_similarities() -> None:
    # crossed: F1 2/3 + accuracy 0, and F1 2/3 + accuracy 1, together 7/3; straight: 2 + 0
    assert match([(1, 2), (1,)], [(1, 2), (2,)]) == [0, 1]


def test_two_equal_truths_need_two_correct_guesses() -> None:
    truths, guesses = [(7, 8), (7, 8)], [(7, 8)]
    paired = [j for j in match(truths, guesses) if j is not None]
    with_replacement = sum(t in guesses for t in truths)
    assert len(paired) / len(truths) == 1 / 2
    assert with_replacement / len(truths) == 1  # how some papers match: it hides the missing one


def test_more_fewer_and_no_guesses() -> None:
    assert match([], []) == []
    assert match([], [(1,)]) == []
    assert match([(1,), (2,)], []) == [None, None]
    assert match([(1,), (2,)], [(2,)]) == [None, 0]
    assert match([(2,)], [(3,), (1,), (2,)]) == [2]


def test_an_empty_guess_is_never_paired() -> None:
    assert match([(1,), (2,)], [(), (2,), ()]) == [None, 1]


def test_an_empty_truth_cannot_be_matched() -> None:
    with pytest.raises(ValueError, match="at least one token to be scored, got none"):
        match([(1,), ()], [(1,)])


def test_permuting_either_side_changes_only_the_indices() -> None:
    dice = random.Random(2)
    for _ in range(100):  # three tokens, at most four long: full of ties
        truths, guesses = draw(dice, 5), draw(dice, dice.randint(2, 8))
        order, rows = dice.sample(range(len(guesses)), len(guesses)), dice.sample(range(5), 5)
        moved = match([truths[i] for i in rows], [guesses[j] for j in order])

        def said(chosen: Sequence[int | None], texts: Sequence[Tokens]) -> list[Tokens | None]:
            return [None if j is None else texts[j] for j in chosen]

        before = zip(truths, said(match(truths, guesses), guesses), strict=True)
        after = zip(
            [truths[i] for i in rows], said(moved, [guesses[j] for j in order]), strict=True
        )
        assert sorted(before, key=repr) == sorted(after, key=repr)


def test_equal_guesses_are_taken_in_order() -> None:
    assert match([(1,), (1,)], [(9,), (1,), (1,), (1,)]) == [1, 2]


def test_a_large_batch_is_matched_in_seconds() -> None:
    dice = random.Random(3)
    truths, guesses = (
        [tuple(dice.choices(range(500), k=30)) for _ in range(n)] for n in (128, 5000)
    )
    started = time.process_time()  # of this process alone: the machine may be shared
    match(truths, guesses)
    assert time.process_time() - started < 60  # takes about 0.3 s; pair after pair, minutes


def test_of_very_many_guesses_the_same_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(6)
    for _ in range(100):
        truths, guesses = draw(dice, dice.randint(1, 4)), draw(dice, dice.randint(0, 40))
        wanted = value(truths, guesses, match(truths, guesses))
        monkeypatch.setattr("fedsim.lab.scoring.metrics.LARGE", 4 * len(truths) ** 2)
        got = match(truths, [*guesses, ()])
        monkeypatch.undo()
        assert value(truths, guesses, got) == pytest.approx(wanted)  # four of each are enough
        used = [j for j in got if j is not None]
        assert len(set(used)) == len(used) == min(len(truths), len(guesses))


@pytest.mark.slow
def test_a_flood_of_guesses_is_matched_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.lab.scoring.metrics.LARGE", 2**14)
    dice = random.Random(7)
    truths = [tuple(dice.choices(range(500), k=30)) for _ in range(16)]
    flood = [tuple(dice.choices(range(500), k=10)) for _ in range(10_000)]
    started = time.process_time()
    chosen = match(truths, [*flood, *truths[:15]])
    assert chosen[:15] == list(range(10_000, 10_015)) and chosen[15] is not None
    assert time.process_time() - started < 10  # takes about 0.3 s


# sample_metrics


def test_token_metrics_by_hand() -> None:
    some = pair((5, 6, 7, 7), (5, 7, 7, 8, 9), "a", "b")
    metrics = sample_metrics(some, but_last=False)
    assert metrics["exact_match"] == 0.0
    assert metrics["token_accuracy"] == 2 / 4  # positions 0 and 2
    assert metrics["bag_f1"] == pytest.approx(2 * 3 / (4 + 5))  # 5, 7, 7 are shared
    assert sorted(metrics) == [
        "bag_f1", "exact_match", "rouge1", "rouge2", "rougeL", "token_accuracy",
    ]  # fmt: skip


def test_bag_f1_counts_a_repeated_token_as_often_as_it_was_there() -> None:
    # one 3 was there, four were guessed: overlap 1, not 4
    assert sample_metrics(pair((3, 4), (3, 3, 3, 3)), but_last=False)["bag_f1"] == 2 * 1 / 6


def test_bag_f1_ignores_order_and_token_accuracy_does_not() -> None:
    metrics = sample_metrics(pair((1, 2, 3, 4), (4, 3, 2, 1)), but_last=False)
    assert (metrics["bag_f1"], metrics["token_accuracy"], metrics["exact_match"]) == (1.0, 0.0, 0.0)


def test_a_sample_that_nothing_was_paired_with_scores_zero_everywhere() -> None:
    metrics = sample_metrics(pair((1, 2), (), "the cat", ""), but_last=True)
    assert len(metrics) == 8
    assert set(metrics.values()) == {0.0}


@pytest.mark.parametrize(
    ("truth", "guess", "exact", "accuracy"),
    [
        ((1, 2, 3), (1, 2, 3), 1.0, 1.0),
        ((1, 2, 3), (1, 2, 9), 1.0, 1.0),  # the last token is not in the update: right or wrong
        ((1, 2, 3), (1, 2), 1.0, 1.0),  # or not there
        ((1, 2, 3), (1, 2, 3, 4), 0.0, 1.0),  # but longer than the truth is another sentence
        ((1, 2, 3), (1, 9, 3), 0.0, 1 / 2),
        ((1, 2, 3), (1,), 0.0, 1 / 2),
        ((1, 2, 3), (), 0.0, 0.0),
        ((5,), (), 0.0, 0.0),  # one token: nothing before the last, so nothing read is no success
        ((5,), (6,), 0.0, 0.0),
        ((5,), (5,), 1.0, 1.0),
    ],
)
def test_metrics_over_all_positions_but_the_last(
    truth: Tokens, guess: Tokens, exact: float, accuracy: float
) -> None:
    metrics = sample_metrics(pair(truth, guess), but_last=True)  # expected: counted by hand
    assert metrics["exact_match_but_last"] == exact
    assert metrics["token_accuracy_but_last"] == accuracy
    assert metrics["exact_match"] == float(truth == guess)  # the full ones are as ever


def test_an_empty_truth_is_not_scored() -> None:
    with pytest.raises(ValueError, match="at least one token to be scored, got none"):
        sample_metrics(pair((), ()), but_last=False)


def test_rouge_by_hand() -> None:
    # P = 3/3, R = 3/4: F = 6/7; bigrams P = 2/2, R = 2/3: F = 4/5; LCS 3: as R-1
    got = rouge("the cat sat down", "the cat sat")
    assert got == pytest.approx({"rouge1": 600 / 7, "rouge2": 80.0, "rougeL": 600 / 7})
    # every word, no bigram, and a longest common subsequence of one word in four
    assert rouge("the cat sat down", "down sat cat the") == {
        "rouge1": 100.0,
        "rouge2": 0.0,
        "rougeL": 25.0,
    }


def test_one_word_has_no_bigram_even_when_it_is_right() -> None:
    metrics = sample_metrics(pair((4,), (4,), "fine", "fine"), but_last=False)
    assert (metrics["rouge1"], metrics["rouge2"], metrics["exact_match"]) == (100.0, 0.0, 1.0)


def test_there_is_no_stemmer() -> None:
    assert rouge("running dogs", "run dog")["rouge1"] == 0.0  # with one it would be 100


def test_rouge_sees_every_script() -> None:
    metrics = sample_metrics(pair((10, 11), (12, 11), "čaj", "šaj"), but_last=False)
    assert (metrics["rouge1"], metrics["exact_match"]) == (0.0, 0.0)
    metrics = sample_metrics(pair((20, 21), (20, 21), "日本", "日本"), but_last=False)
    assert (metrics["rouge1"], metrics["rouge2"], metrics["exact_match"]) == (100.0, 100.0, 1.0)


@pytest.mark.parametrize("guess", ["😀 !!", "", "a word"])
def test_a_text_without_a_word_has_no_rouge(guess: str) -> None:
    metrics = sample_metrics(pair((1, 2), (1, 2), "😀 !!", guess), but_last=False)
    assert metrics == {"exact_match": 1.0, "token_accuracy": 1.0, "bag_f1": 1.0}


# hits


def test_a_surplus_guess_is_wrong() -> None:
    pairs = [pair((1,), (1,)), pair((2,), (3,)), pair((4,), ())]
    assert hits(pairs, 0) == [1.0, 0.0]  # the third was never guessed
    assert hits(pairs, 3) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_where_nothing_was_guessed_there_is_nothing_to_be_right() -> None:
    assert hits([pair((4,), ())], 0) == []
    assert hits([], 2) == [0.0, 0.0]


def test_a_guess_is_right_but_for_the_last_token() -> None:
    pairs = [pair((1, 2, 3), (1, 2)), pair((1, 2, 3), (1, 2, 9)), pair((4, 5, 6), (4,))]
    assert hits(pairs, 1) == [0.0, 0.0, 0.0, 0.0]
    assert hits(pairs, 1, but_last=True) == [1.0, 1.0, 0.0, 0.0]


def test_surplus_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match="surplus must be 0 or more, got -1"):
        hits([], -1)


# paper_rouge


def test_special_tokens_give_free_points() -> None:
    truth, guess = "[CLS] a b c d e f g h [SEP]", "[CLS] i j k l m n o p [SEP]"
    assert paper_rouge([truth], [guess])["rouge1_paper"] == pytest.approx(20.0)  # cls, sep of 10
    assert rouge("a b c d e f g h", "i j k l m n o p")["rouge1"] == 0.0


def test_paper_rouge_is_as_good_as_the_best_of_all_permutations() -> None:
    dice = random.Random(4)
    scorer = RougeScorer(["rouge1"])
    for _ in range(60):
        truths, guesses = (
            [" ".join(map(str, t)) for t in draw(dice, dice.randint(1, 4))] for _ in range(2)
        )
        padded = [*guesses, *[""] * len(truths)]
        sums = [
            sum(scorer.score(t, g)["rouge1"].fmeasure for t, g in zip(truths, perm, strict=True))
            for perm in set(itertools.permutations(padded, len(truths)))
        ]
        expected = 100 * max(sums) / len(truths)
        assert paper_rouge(truths, guesses)["rouge1_paper"] == pytest.approx(expected)


def test_paper_rouge_pairs_the_texts_and_counts_a_missing_guess_as_zero() -> None:
    got = paper_rouge(["x y", "a b c", "m n"], ["A, b c!", "x z"])
    # by hand: 100, 1 of 2 words, nothing; bigrams 2 of 2, 0 of 1, nothing; LCS as R-1
    assert got == pytest.approx({"rouge1_paper": 50, "rouge2_paper": 100 / 3, "rougeL_paper": 50})


def test_paper_rouge_does_not_depend_on_the_order_of_guesses() -> None:
    dice = random.Random(5)
    for _ in range(40):  # few words: ties in ROUGE-1 that differ in ROUGE-2
        truths, guesses = ([" ".join(map(str, t)) for t in draw(dice, 5)] for _ in range(2))
        shuffled = dice.sample(guesses, len(guesses))
        assert paper_rouge(truths, guesses) == paper_rouge(truths, shuffled)


def test_paper_rouge_of_texts_without_words_is_zero() -> None:
    assert set(paper_rouge(["!", "日本"], ["?", "日本"]).values()) == {0.0}


def test_paper_rouge_needs_a_truth() -> None:
    with pytest.raises(ValueError, match="needs at least one truth, got none"):
        paper_rouge([], ["a"])


# all of them


def test_the_truth_through_the_scorer_is_perfect() -> None:
    texts = ["the cat sat down", "a dog ran off", "the cat ran off"]
    truths: list[Tokens] = [(1, 2, 3, 4), (5, 6, 7, 8), (1, 2, 7, 8)]
    chosen = match(truths, truths)
    assert chosen == [0, 1, 2]
    for tokens, text in zip(truths, texts, strict=True):
        metrics = sample_metrics(pair(tokens, tokens, text, text), but_last=True)
        assert {v for k, v in metrics.items() if k.startswith("rouge")} == {100.0}
        assert {v for k, v in metrics.items() if not k.startswith("rouge")} == {1.0}
    assert set(paper_rouge(texts, texts[::-1]).values()) == {100.0}


def test_scoring_leaves_the_global_generators_alone() -> None:
    python, legacy = random.getstate(), np.random.get_state(legacy=False)
    match([(1, 2), (3,)], [(3, 3), (1,), (2,)])
    sample_metrics(pair((1, 2), (2, 1), "a b", "b a"), but_last=True)
    paper_rouge(["a b", "c"], ["b a", "d"])
    assert random.getstate() == python
    np.testing.assert_equal(np.random.get_state(legacy=False), legacy)


def test_chance_overlaps_are_those_of_matching_each_draw() -> None:
    draw = random.Random(3)
    for size in (1, 2, 5, 9):
        tokens = [tuple(draw.choices(range(6), k=draw.randrange(1, 6))) for _ in range(40)]
        truths = tokens[:size]
        pool = [*tokens[size:], *truths[: max(1, size // 2)]]  # an exact pair outbids others
        draws = [draw.choices(range(len(pool)), k=size + extra) for extra in (0, 0, 3, 7)]
        naive = []
        for places in draws:
            guesses = [pool[place] for place in places]
            chosen = match(truths, guesses)
            pairs = [(t, guesses[j]) for t, j in zip(truths, chosen, strict=True) if j is not None]
            assert len(pairs) == len(truths)
            naive.append(fmean(bag_f1(t, g) for t, g in pairs))
        assert chance_overlaps(truths, pool, draws) == naive
