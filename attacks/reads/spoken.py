"""What a causal language model says of texts that it said itself: they are like those it learned.

A model that was never trained says any token as often, so its texts are random ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedsim.messages import Observation

TEXTS, TOKENS = 32, 32  # said, of so many tokens each


@dataclass(frozen=True)
class Spoken:
    """Means over all places of the texts, float64 on the CPU.

    Attributes:
        chances: (V,) of the next token.
        mean: (D,) of what the head reads.
        second: (D, D) of its outer products with itself.
        head: (V, D) the head's weight.
    """

    chances: Tensor
    mean: Tensor
    second: Tensor
    head: Tensor


@torch.no_grad()
def spoken(observation: Observation, generator: torch.Generator) -> Spoken:
    """Return what the model that was sent says of texts of its own.

    Args:
        observation: of a causal-lm update.
        generator: draws the texts.
    """
    model = observation.model
    module: Any = model.load(observation.broadcast.parameters).eval()
    head = module.get_submodule(model.ending()[1])
    states: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: states.append(given[0].flatten(0, -2)))
    total, places = torch.zeros(model.vocabulary, dtype=torch.float64), 0
    try:
        for logits in _said(module, _starts(observation, generator), generator):
            total += logits.cpu().double().softmax(dim=-1).sum(dim=0)
            places += len(logits)
    finally:
        hook.remove()
    read = torch.cat(states).cpu().double()
    return Spoken(
        chances=total / places,
        mean=read.mean(dim=0),
        second=read.T @ read / len(read),
        head=head.weight.detach().cpu().double(),
    )


def _starts(observation: Observation, generator: torch.Generator) -> Tensor:
    """Return the first token of each text (N, 1): what stands before any, else a random one."""
    model = observation.model
    start = model.prefix[:1] or (model.tokenizer.bos_token_id,)
    if start[0] is None:
        most = min(model.vocabulary, len(model.tokenizer))
        return torch.randint(most, (TEXTS, 1), generator=generator)
    return torch.full((TEXTS, 1), int(start[0]))


def _said(module: Any, ids: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the logits (N, V) of each next token, which is then drawn by them."""
    known: Any = None
    caches = module.can_generate()  # of transformers: it takes its own keys and values again
    device = next(module.parameters()).device
    for _ in range(TOKENS):
        if caches:
            last = ids[:, -1:].to(device)
            made: Any = module(input_ids=last, past_key_values=known, use_cache=True)
            known = made.past_key_values
        else:
            made = module(input_ids=ids.to(device))
        logits = made.logits[:, -1]
        yield logits
        drawn = torch.multinomial(logits.cpu().float().softmax(dim=-1), 1, generator=generator)
        ids = torch.cat([ids, drawn], dim=1)
