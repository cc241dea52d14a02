"""The model that is being trained, as a language model: what comes next, and what a text costs.

Where the processor computes in bfloat16 it does so here: nothing that is compared is closer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.matching.halves import has_bfloat16
from attacks.reads import gradient_of
from fedsim.messages import Observation
from fedsim.models.norms import kind_of, normed
from fedsim.types import Tokens

AT_ONCE = 2**26  # logits held at once


@dataclass(frozen=True)
class Cost:
    """What texts cost, summed over their predicted tokens.

    Attributes:
        nats: (N,)
        pulls: (N, D) the gradient of the last norm's weight; zeros where that is not observed.
        predicted: (N,) how many tokens are.
    """

    nats: Tensor
    pulls: Tensor
    predicted: Tensor

    def take(self, rows: Tensor) -> "Cost":
        """Return the same of some of the texts."""
        return Cost(self.nats[rows], self.pulls[rows], self.predicted[rows])

    def and_(self, others: "Cost") -> "Cost":
        """Return the same of these texts, then ``others``."""
        return Cost(
            torch.cat([self.nats, others.nats]),
            torch.cat([self.pulls, others.pulls]),
            torch.cat([self.predicted, others.predicted]),
        )


class Language:
    """A causal language model at the weights that were sent.

    Attributes:
        observed: (D,) the gradient of the last norm's weight; None: the update does not have it.
    """

    def __init__(self, observation: Observation) -> None:
        model = observation.model
        self.model = model
        self._module: Any = model.load(observation.broadcast.parameters).eval()
        name, head = model.ending()
        self._head = self._module.get_submodule(head)
        self._norm = None if name is None else self._module.get_submodule(name)
        known = self._norm is not None and kind_of(self._norm) is not None
        self.observed: Tensor | None = None
        if known and f"{name}.weight" in observation.update.tensors:
            self.observed = gradient_of(observation, f"{name}.weight").cpu()

    def after(self, ids: Tensor, known: Any = None) -> tuple[Tensor, Any]:
        """Return the logarithms of the next token's chances (N, V), and the keys to go on from.

        Args:
            ids: (N, T) what follows that of which keys and values are ``known``.
            known: the keys and values, of which rows may have been chosen.
        """
        with self._halves():
            made = self._module(
                input_ids=ids.to(self.model.device), past_key_values=known, use_cache=True
            )
        return made.logits[:, -1].float().log_softmax(dim=-1).cpu(), made.past_key_values

    def cost(self, texts: Sequence[Tokens]) -> Cost:
        """Return what texts cost, of one token or more each."""
        longest = max(map(len, texts), default=1)
        step = max(1, AT_ONCE // (longest * self.model.vocabulary))
        parts = [self._cost(texts[at : at + step]) for at in range(0, len(texts), step)]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.and_(part)
        return whole

    def _cost(self, texts: Sequence[Tokens]) -> Cost:
        batch = self.model.batch(texts, [None] * len(texts), torch.Generator())
        caught: list[Tensor] = []
        norm = self._norm if self.observed is not None else None
        hook = norm and norm.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        try:
            with self._halves():
                logits = self._module(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
                ).logits[:, :-1]
        finally:
            if hook:
                hook.remove()
        chances = logits.float().log_softmax(dim=-1)  # (N, T - 1, V)
        targets, there = batch["labels"][:, 1:], batch["labels"][:, 1:] >= 0
        at = targets.clamp_min(0)[..., None]
        nats = -(chances.gather(2, at)[..., 0] * there).sum(dim=1)
        pulls = torch.zeros(len(texts), self.model.width)
        if norm is not None:
            slopes = chances.exp_().scatter_add_(2, at, -torch.ones_like(at, dtype=chances.dtype))
            with self._halves():
                back = slopes @ self._head.weight  # (N, T - 1, D)
            read = normed(norm, caught[0][:, :-1].float())
            pulls = (read * back.float() * there[..., None]).sum(dim=1).cpu()
        return Cost(nats.cpu(), pulls, there.sum(dim=1).cpu())

    def _halves(self) -> torch.autocast:
        device = self.model.device
        return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
