"""The positive control: the same attack on an undefended update that the attacker makes itself.

It is made of public sentences, in the shape of the client's batch (as many texts, as many tokens
each), at the same weights and with the same training. An attack that fails here is broken, or out
of its range; that it found nothing in the client's update then says nothing.
"""

import math
import random
import time
from collections.abc import Sequence
from itertools import cycle, islice

import torch
from torch import nn

from fedsim.errors import UnsupportedObservation
from fedsim.local import simulated_update
from fedsim.messages import Broadcast, Update
from fedsim.models import ModelAdapter
from fedsim.training import Examples, Gradient, mean_gradient
from fedsim.types import Tokens
from fedsim.vault.reader import Truth

STEP = 17  # tokens between the beginnings of two texts
VOCABULARY = 256  # words that stand in for a text
OWN_TEXTS = (
    "The ferry leaves the northern harbour at seven and comes back before dark.",
    "A tall oak stood behind the school until the storm took it.",
    "We painted the kitchen yellow, then green, and in the end yellow again.",
    "Nobody on the train had noticed that the clock was an hour slow.",
    "Her brother repairs accordions in a cellar that smells of glue and apples.",
    "If it rains tomorrow, the match will be played in the old tram depot.",
    "They found three coins and a rusty key under the second step.",
    "My grandmother counts the geese every evening and is never wrong.",
    "Fresh bread costs less in the village across the river.",
    "The painter signed his name so small that only children could read it.",
    "Nine people applied for the lighthouse job, and one of them could swim.",
    "Please leave the bicycle where it is; the tyre is flat.",
    "Salt, pepper, two lemons and patience are all that this soup needs.",
    "Our neighbour plays the trumpet at noon on the first Sunday of May.",
    "Behind the library begins a path that no map of the town shows.",
    "It took the committee four meetings to choose the colour of the door.",
)


def own_sequences(adapter: ModelAdapter, lengths: Sequence[int]) -> tuple[Tokens, ...]:
    """Return a sequence of public text for each of ``lengths``, in tokens with the special ones."""
    prefix, suffix = adapter.prefix, adapter.suffix
    stream = _public_tokens(adapter)
    step = next(n for n in range(STEP, STEP + len(stream)) if math.gcd(n, len(stream)) == 1)
    rows = []
    for place, length in enumerate(lengths):  # each begins elsewhere, so none begins another
        wanted = max(1, length - len(prefix) - len(suffix))
        start = place * step % len(stream)
        body = list(islice(cycle(stream), start, start + wanted))
        rows.append((*prefix, *body, *suffix))
    return tuple(rows)


def _public_tokens(adapter: ModelAdapter) -> list[int]:
    """Return ``OWN_TEXTS`` as tokens; words of the vocabulary where it hardly knows theirs."""
    try:
        ids = adapter.tokenizer(" ".join(OWN_TEXTS), add_special_tokens=False)["input_ids"]
    except Exception:  # of any kind: a tokenizer without an unknown token raises Exception itself
        ids = []
    special = adapter.special  # once: the tokenizer gathers them anew each time
    known = [token for token in ids if token not in special]
    if len(known) > len(ids) / 2:
        return known
    words = sorted(set(adapter.tokenizer.get_vocab().values()) - special)
    return random.Random(STEP).sample(words, min(len(words), VOCABULARY))


def own_update(
    adapter: ModelAdapter,
    broadcast: Broadcast,
    own: Truth,
    seed: int,
    seconds: float = math.inf,
) -> Update:
    """Return what an undefended client with the texts ``own`` would have answered to ``broadcast``.

    Raises:
        UnsupportedObservation: that takes longer than ``seconds``: a stranger's broadcast may ask
            for as many epochs as it likes.
    """
    examples = Examples(sequences=own.sequences, labels=own.labels)
    name = ("control", broadcast.round)
    return simulated_update(adapter, broadcast, examples, seed, *name, gradient=_within(seconds))


def _within(seconds: float) -> Gradient:
    """Return the gradient of a step, which is not begun once ``seconds`` have passed."""
    end = time.monotonic() + seconds

    def gradient(
        module: nn.Module, adapter: ModelAdapter, examples: Examples, generator: torch.Generator
    ) -> float:
        if time.monotonic() > end:
            raise UnsupportedObservation(
                f"its training took longer than attack.seconds = {seconds:g} allows"
            )
        return mean_gradient(module, adapter, examples, generator)

    return gradient
