"""Scores one guess against a batch whose truth the caller holds: no vault, no controls."""

from collections.abc import Iterable, Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fedsim.lab.scoring.metrics import Pair, hits, match, sample_metrics
from fedsim.lab.scoring.scored import means
from fedsim.messages import Reconstruction
from fedsim.types import Tokens


def score(
    guess: Reconstruction,
    truth: Tensor | Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, float]:
    """Return the mean metrics of a batch, by name, and the share of guesses that are right.

    Special tokens are dropped on both sides, guesses are paired with texts one to one, and a text
    that was not read counts as 0. ``exact_match``, ``token_accuracy``, ``bag_f1`` and ``precision``
    are fractions in [0, 1], ROUGE is F-measure x 100, over the texts that have a word. What has no
    meaning is absent: ROUGE where no text has a word, precision where nothing was guessed. Without
    controls none of them says how much of it would have been guessed anyhow.

    Args:
        guess: what an attack read.
        truth: the batch's token ids, a row a text, padded or not.
        tokenizer: the model's own.

    Raises:
        ValueError: there is no text, or one without a token that is not special.
    """
    truths, guesses = _bare(truth, tokenizer), _bare(guess.sequences, tokenizer)
    if not truths:
        raise ValueError("truth must hold at least one text, got none")
    chosen = match(truths, guesses)
    pairs = [
        _pair(tokens, () if place is None else guesses[place], tokenizer)
        for tokens, place in zip(truths, chosen, strict=True)
    ]
    samples = [sample_metrics(pair, but_last=False) for pair in pairs]
    surplus = sum(map(bool, guesses)) - sum(place is not None for place in chosen)
    return means([*samples, *({"precision": hit} for hit in hits(pairs, surplus))])


def _bare(
    rows: Tensor | Iterable[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> list[Tokens]:
    special = set(tokenizer.all_special_ids)
    plain = rows.tolist() if isinstance(rows, Tensor) else rows
    return [tuple(token for token in row if token not in special) for row in plain]


def _pair(truth: Tokens, guess: Tokens, tokenizer: PreTrainedTokenizerBase) -> Pair:
    truth_text, guess_text = (str(tokenizer.decode(list(tokens))) for tokens in (truth, guess))
    return Pair(truth=truth, guess=guess, truth_text=truth_text, guess_text=guess_text)
