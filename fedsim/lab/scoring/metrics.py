"""Pair reconstructions with the truth, one to one, and measure each pair.

Token metrics are fractions in [0, 1]; ROUGE is F-measure x 100, see :mod:`.rouge`, and absent where
a text has no word. Chance is well above zero and grows with the batch; no number here means
anything without controls.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from fedsim.lab.scoring.rouge import paper_words, rouge, words

Tokens = tuple[int, ...]
LARGE = 2**22  # pairs of a truth and a guess that are weighed at once, in some 200 MB
Matrix = NDArray[np.float64]
T = TypeVar("T", Tokens, str)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A client's sample and what was read of it, special tokens dropped.

    A truth that nothing was paired with has the guess ``()`` and ``""``.
    """

    truth: Tokens
    guess: Tokens
    truth_text: str
    guess_text: str


def match(truths: Sequence[Tokens], guesses: Sequence[Tokens]) -> list[int | None]:
    """Return, for each truth, the index of the one guess it is paired with, or None.

    One to one (Hungarian): first as many exact pairs as there can be, then the largest sum of
    bag F1 + token accuracy. Which guesses are chosen depends on what they say, never on their
    order. An empty guess says nothing and is never paired. Of very many guesses (``LARGE``) only
    those that are nearest to some truth are weighed, so that the time grows with their number.

    Raises:
        ValueError: a truth is empty.
    """
    for truth in truths:
        _require_tokens(truth)
    if len(truths) * len(guesses) <= LARGE:
        return _pair_up(truths, guesses, _token_similarity)
    chosen = _equal(truths, guesses)
    taken = set(chosen)
    rows = [i for i, j in enumerate(chosen) if j is None]
    open_ = (j for j, guess in enumerate(guesses) if guess and j not in taken)
    columns = sorted(open_, key=lambda j: guesses[j])
    left = [truths[i] for i in rows]
    near = _nearest(left, [guesses[j] for j in columns])
    for i, at in zip(
        rows, _pair_up(left, [guesses[columns[k]] for k in near], _token_similarity), strict=True
    ):
        chosen[i] = None if at is None else columns[near[at]]
    return chosen


def _equal(truths: Sequence[Tokens], guesses: Sequence[Tokens]) -> list[int | None]:
    """Return, for each truth, the index of a guess that is equal and no other's, or None."""
    places: dict[Tokens, list[int]] = {}
    for j in reversed(range(len(guesses))):
        places.setdefault(guesses[j], []).append(j)
    return [at.pop() if (at := places.get(truth)) else None for truth in truths]


def _nearest(truths: list[Tokens], guesses: list[Tokens]) -> list[int]:
    """Return which guesses are among the most similar to some truth, ``LARGE`` pairs at most."""
    if not truths:
        return []
    block = max(1, LARGE // len(truths))
    each = max(1, block // len(truths))  # guesses of each truth
    near = set[int]()
    for start in range(0, len(guesses), block):
        kept = sorted({*near, *range(start, min(start + block, len(guesses)))})
        similarity = _token_similarity(truths, [guesses[j] for j in kept])
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :each]
        near = {kept[k] for k in best.ravel().tolist()}
    return sorted(near)


def chance_overlaps(
    truths: Sequence[Tokens], pool: Sequence[Tokens], draws: Sequence[Sequence[int]]
) -> list[float]:
    """Return, for each draw of guesses, the mean bag F1 of the pairs that :func:`match` makes.

    Args:
        truths: not empty, any of them.
        pool: what is drawn from, no empty one.
        draws: the guesses' places in ``pool``, at least one for each truth.
    """
    ordered = sorted(truths)  # as match does: no tie is settled by an order that says nothing
    ranked = sorted(range(len(pool)), key=lambda place: pool[place])
    rank = {place: k for k, place in enumerate(ranked)}
    overlap, accuracy, exact = _token_parts(ordered, [pool[place] for place in ranked])
    means = []
    for draw in draws:
        some = sorted(rank[place] for place in draw)
        weight = _weight(len(truths), len(some))
        similarity = overlap[:, some] + accuracy[:, some] + weight * exact[:, some]
        rows, columns = linear_sum_assignment(similarity, maximize=True)
        means.append(fmean(overlap[:, some][rows, columns]))
    return means


def sample_metrics(pair: Pair, *, but_last: bool) -> dict[str, float]:
    """Return the metrics of one pair, by name.

    ``token_accuracy`` is the share of the truth's positions at which the guess says the same;
    ``bag_f1`` compares multisets of token ids, order ignored. A truth without a word (emoji or
    punctuation alone) has no ROUGE: the keys are absent.

    Args:
        pair: what to compare.
        but_last: the update does not carry a sequence's last token (causal-lm): score also without
            that position. The guess may put one token there, right or wrong, or none. A truth of
            one token has no other position and is scored on that one.

    Raises:
        ValueError: the truth is empty.
    """
    truth, guess = pair.truth, pair.guess
    _require_tokens(truth)
    metrics = {
        "exact_match": float(guess == truth),
        "token_accuracy": _token_accuracy(truth, guess),
        "bag_f1": bag_f1(truth, guess),
    }
    if said := words(pair.truth_text):
        metrics |= rouge(said, words(pair.guess_text))
    if but_last:
        metrics["exact_match_but_last"] = float(_exact_but_last(truth, guess))
        metrics["token_accuracy_but_last"] = _token_accuracy(_carried(truth), guess)
    return metrics


def bag_f1(truth: Tokens, guess: Tokens) -> float:
    """Return the F1 of two multisets of token ids, not both empty: order does not count."""
    return 2 * (Counter(truth) & Counter(guess)).total() / (len(truth) + len(guess))


def hits(pairs: Iterable[Pair], surplus: int, *, but_last: bool = False) -> list[float]:
    """Return for each guess that was made whether it is right: 1.0 where it is exact, or else 0.0.

    Their mean is the precision of an attack. Guesses are paired with texts one to one, so the
    second of two equal guesses is right only where the text was there twice. An empty guess says
    nothing and is none.

    Args:
        pairs: all pairs of one update.
        surplus: how many non-empty guesses were left without a truth. Each of them is wrong.
        but_last: exact is meant as ``exact_match_but_last`` has it, see :func:`sample_metrics`.

    Raises:
        ValueError: ``surplus`` is negative.
    """
    if surplus < 0:
        raise ValueError(f"surplus must be 0 or more, got {surplus}")
    exact = _exact_but_last if but_last else tuple.__eq__
    made = [float(exact(pair.truth, pair.guess)) for pair in pairs if pair.guess]
    return made + [0.0] * surplus


def paper_rouge(truth_texts: Sequence[str], guess_texts: Sequence[str]) -> dict[str, float]:
    """Return mean ROUGE over the truths, as the LAMP family reports it: for comparison only.

    Hungarian on 1 - ROUGE-1 F, on texts that KEEP their special tokens, whose names then count as
    correct words (Balunović et al., NeurIPS 2022, arXiv:2202.08827, released code), and on the
    words of rouge_score alone, [a-z0-9]. That code reports the median of bootstrap means and we the
    mean; a truth without a guess counts as 0.

    Raises:
        ValueError: there are no truths.
    """
    if not truth_texts:
        raise ValueError("paper_rouge needs at least one truth, got none")
    chosen = _pair_up(truth_texts, guess_texts, _word_similarity)
    scores = [
        rouge(paper_words(text), paper_words("" if j is None else guess_texts[j]))
        for text, j in zip(truth_texts, chosen, strict=True)
    ]
    return {f"{name}_paper": float(np.mean([s[name] for s in scores])) for name in scores[0]}


def _require_tokens(truth: Tokens) -> None:
    if not truth:
        raise ValueError("a truth needs at least one token to be scored, got none")


def _carried(truth: Tokens) -> Tokens:
    return truth[: max(1, len(truth) - 1)]


def _exact_but_last(truth: Tokens, guess: Tokens) -> bool:
    carried = _carried(truth)
    return len(guess) <= len(truth) and guess[: len(carried)] == carried


def _token_accuracy(truth: Tokens, guess: Tokens) -> float:
    return sum(a == b for a, b in zip(truth, guess, strict=False)) / len(truth)


def _pair_up(
    truths: Sequence[T], guesses: Sequence[T], similarity: Callable[[list[T], list[T]], Matrix]
) -> list[int | None]:
    """Solve the assignment with both sides sorted, so that no tie is settled by their order."""
    rows = sorted(range(len(truths)), key=lambda i: truths[i])
    columns = sorted((j for j, guess in enumerate(guesses) if guess), key=lambda j: guesses[j])
    chosen: list[int | None] = [None] * len(truths)
    if rows and columns:
        matrix = similarity([truths[i] for i in rows], [guesses[j] for j in columns])
        for row, column in zip(*linear_sum_assignment(matrix, maximize=True), strict=True):
            chosen[rows[row]] = columns[column]
    return chosen


def _token_similarity(truths: list[Tokens], guesses: list[Tokens]) -> Matrix:
    """Return (N, M) bag F1 + token accuracy + a weight on equality that no sum can outbid."""
    overlap, accuracy, exact = _token_parts(truths, guesses)
    return overlap + accuracy + _weight(len(truths), len(guesses)) * exact


def _token_parts(
    truths: list[Tokens], guesses: list[Tokens]
) -> tuple[Matrix, Matrix, NDArray[np.bool_]]:
    """Return bag F1, token accuracy, and whether they are equal, each (N, M)."""
    lengths, guess_lengths = _lengths(truths), _lengths(guesses).T  # (N, 1), (1, M)
    equal = _shared([list(enumerate(t)) for t in truths], [list(enumerate(g)) for g in guesses])
    exact: NDArray[np.bool_] = (equal == lengths) & (lengths == guess_lengths)
    return _bag_f1(truths, guesses), equal / lengths, exact


def _weight(truths: int, guesses: int) -> int:
    return 2 * min(truths, guesses) + 1  # every pair adds at most 1 + 1 besides


def _word_similarity(truths: list[str], guesses: list[str]) -> Matrix:
    """Return (N, M) ROUGE-1 F in [0, 1], which is the bag F1 of the words that ROUGE sees."""
    return _bag_f1([paper_words(t) for t in truths], [paper_words(g) for g in guesses])


def _bag_f1(truths: Sequence[Sequence[Hashable]], guesses: Sequence[Sequence[Hashable]]) -> Matrix:
    overlap = _shared([_numbered(t) for t in truths], [_numbered(g) for g in guesses])
    return 2 * overlap / np.maximum(_lengths(truths) + _lengths(guesses).T, 1)  # both empty: 0


def _lengths(sequences: Sequence[Sequence[object]]) -> Matrix:
    return np.array([[len(s)] for s in sequences], dtype=np.float64)  # (N, 1)


def _numbered(sequence: Sequence[Hashable]) -> list[Hashable]:
    """Number the occurrences: as sets, ``a0 a1 b0`` and ``a0 b0`` share what the bags share."""
    counts: Counter[Hashable] = Counter()
    items: list[Hashable] = []
    for token in sequence:
        items.append((token, counts[token]))
        counts[token] += 1
    return items


def _shared(truths: Sequence[Sequence[Hashable]], guesses: Sequence[Sequence[Hashable]]) -> Matrix:
    """Return (N, M) counts of the items that a truth and a guess share; each has distinct items."""
    column = {item: k for k, item in enumerate(dict.fromkeys(chain.from_iterable(truths)))}

    def incidence(rows: Sequence[Sequence[Hashable]]) -> csr_array:
        known = [[column[item] for item in row if item in column] for row in rows]
        starts = np.cumsum([0, *map(len, known)])
        indices = np.fromiter(chain.from_iterable(known), dtype=np.int64)
        shape = (len(rows), len(column))
        return csr_array((np.ones(len(indices)), indices, starts), shape=shape)

    counts: Matrix = (incidence(truths) @ incidence(guesses).T).toarray()  # (N, M)
    return counts
