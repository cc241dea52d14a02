"""What the attacker does with public texts: which play which part, and one-token twins."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedsim.messages import Texts
from fedsim.models import ModelAdapter
from fedsim.types import Parameters, Tokens

NULL = 0.25  # of the texts that nobody trained on, those that chance is told by
FEWEST_NULL = 15


@dataclass(frozen=True)
class Parts:
    """Rows of the public texts: those that statistics are of, and those that tell chance."""

    known: tuple[int, ...]
    null: tuple[int, ...]


def parts(rows: Sequence[int], share: float = NULL) -> Parts:
    """Divide ``rows``: a ``share`` tells chance, and no fewer than FEWEST_NULL."""
    null = max(FEWEST_NULL, round(share * len(rows)))
    return Parts(known=tuple(rows[:-null]), null=tuple(rows[-null:]))


def fingerprint(weights: Parameters, *texts: Texts) -> int:
    """Return a number of 63 bits that hangs on all weights and texts: a cache's key, a seed."""
    told = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(weights.items()):
        told.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        told.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for some in texts:
        told.update(repr((some.sequences, some.labels)).encode())
    return int.from_bytes(told.digest(), "big") >> 1


def twins(model: ModelAdapter, texts: Texts, generator: torch.Generator) -> Texts:
    """Return each text with one of its tokens replaced by another, drawn from all of the texts'."""
    special = model.special
    pool = sorted({token for tokens in texts.sequences for token in tokens} - special)
    made = [_twin(tokens, special, pool, generator) for tokens in texts.sequences]
    return Texts(sequences=tuple(made), labels=texts.labels)


def _twin(
    tokens: Tokens, special: frozenset[int], pool: Sequence[int], generator: torch.Generator
) -> Tokens:
    places = [place for place, token in enumerate(tokens) if token not in special]
    if not places or len(pool) < 2:
        return tokens
    place = places[_below(len(places), generator)]
    others = [token for token in pool if token != tokens[place]]
    return (*tokens[:place], others[_below(len(others), generator)], *tokens[place + 1 :])


def _below(most: int, generator: torch.Generator) -> int:
    return int(torch.randint(most, (), generator=generator))
