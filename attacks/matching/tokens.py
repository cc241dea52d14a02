"""Distances of token sequences: a changed sequence's gradient is computed, the others' are kept.

A batch's gradient is the sum of its sequences' parts, as no layer mixes them. So a candidate that
differs in one sequence costs one sequence, whatever the batch.

One token in a long text changes the last layers' gradients by a thousandth: as norms and inner
products show such a difference by cancellation, they are taken in float64.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attacks.matching.distances import L2, Observed
from attacks.matching.engine import Factors
from attacks.matching.factors import joined
from attacks.matching.problem import TOKENS_AT_ONCE, Problem

KEPT = 2**28  # bytes of sequences' gradients that are kept
KNOWN = 20_000  # distances that are kept
RESIDUALS = 4  # kept at a time; each is as large as the model


def near(observed: Mapping[str, Tensor], relative: bool) -> L2:
    """Return L2; where ``relative`` each tensor's part over the norm of the observed one."""
    if not relative:
        return L2(power=1)
    return L2(power=1, weights={name: 1.0 / float(o.norm()) for name, o in observed.items()})


class TokenScores:
    """sum_p w_p ||G - O||_2 of batches of tokens, with the word embeddings' gradient where seen.

    Where the problem adapts to a defense nothing adds up, so there it is the problem's own
    distance, of whole batches.

    Attributes:
        relative: w_p = 1 / ||O_p||, so that no tensor counts for its size; else 1.
        observed: the gradient to match, by parameter.
        computed: how many sequences' gradients were computed.
    """

    def __init__(
        self,
        problem: Problem,
        targets: Tensor,
        masks: Sequence[Tensor] | None = None,
        relative: bool = False,
    ) -> None:
        self._problem, self._targets, self._masks = problem, targets, masks
        self.observed = Observed({n: tensor.double() for n, tensor in problem.observed.items()})
        name = problem.engine.words_name
        if name is not None and problem.words_observed is not None:
            self.observed[name] = problem.words_observed.double()
        self._near = near(self.observed, relative)
        self._parts: dict[tuple[int, ...], Factors] = {}
        self._held = 0  # bytes of those
        self._residuals: dict[tuple[int, ...], Observed] = {}
        self._known: dict[tuple[int, ...], float] = {}
        self.computed = 0

    @torch.no_grad()
    def whole(self, ids: Tensor) -> Tensor:
        """Return the distances of K batches of tokens (K, B, T): (K,)."""
        if self._problem.adapts:
            targets = ids if self._problem.frame.task == "causal-lm" else self._targets
            self.computed += ids[:, :, 0].numel()
            return self._problem.score(self._problem.engine.embed(ids), targets, self._masks)
        step = max(1, TOKENS_AT_ONCE // ids[0].numel())
        rows = list(range(ids.shape[1]))
        parts = [self._factors(ids[at : at + step], rows) for at in range(0, len(ids), step)]
        return torch.cat([self._near(part, self.observed) for part in parts])

    @torch.no_grad()
    def replaced(self, ids: Tensor, row: int, texts: Tensor) -> Tensor:
        """Return the distances of ``ids`` (B, T) with sequence ``row`` as each of ``texts`` (K, T).

        What the other sequences leave of the observed gradient is kept, and so is every answer.
        """
        others = tuple(ids[[n for n in range(len(ids)) if n != row]].flatten().tolist())
        keys = [(row, *others, *text) for text in texts.tolist()]
        fresh = [place for place, key in enumerate(keys) if key not in self._known]
        distances = self._computed(ids, row, texts[fresh], (row, *others)) if fresh else []
        answers = self._known | dict(zip((keys[at] for at in fresh), distances, strict=True))
        self._known = answers if len(answers) <= KNOWN else {}
        return torch.tensor([answers[key] for key in keys])

    def _computed(self, ids: Tensor, row: int, texts: Tensor, key: tuple[int, ...]) -> list[float]:
        """Return ``replaced``'s distances, none of them known yet."""
        if self._problem.adapts:
            batches = ids.repeat(len(texts), 1, 1)
            batches[:, row] = texts
            distances: list[float] = self.whole(batches).tolist()
            return distances
        residual = self._residual(ids, row, key)
        step = max(1, TOKENS_AT_ONCE // texts.shape[1])
        parts = (texts[at : at + step][:, None] for at in range(0, len(texts), step))
        return [
            distance
            for part in parts
            for distance in self._near(self._factors(part, [row]), residual).tolist()
        ]

    def _residual(self, ids: Tensor, row: int, key: tuple[int, ...]) -> Observed:
        """Return the observed gradient less the part of all sequences but ``row``."""
        if len(ids) == 1:
            return self.observed
        if key not in self._residuals:
            while len(self._residuals) >= RESIDUALS:
                self._residuals.pop(next(iter(self._residuals)))
            parts = [self._part(ids, number) for number in range(len(ids)) if number != row]
            self._residuals[key] = Observed(
                {
                    name: tensor - joined([part[name] for part in parts]).dense(tensor.shape)[0]
                    for name, tensor in self.observed.items()
                }
            )
        return self._residuals[key]

    def _part(self, ids: Tensor, row: int) -> Factors:
        key = (row, *ids[row].tolist())
        if key not in self._parts:
            self._parts[key] = self._factors(ids[None, [row]], [row])
            self._held += _bytes(self._parts[key])
            while self._held > KEPT and len(self._parts) > len(ids):
                self._held -= _bytes(self._parts.pop(next(iter(self._parts))))
        return self._parts[key]

    def _factors(self, ids: Tensor, rows: list[int]) -> Factors:
        """Return the part of ``rows`` in the gradients of K candidates (K, S, T)."""
        engine, targets = self._problem.engine, self._problem.shares(self._targets)
        self.computed += len(ids) * len(rows)
        if self._masks is None:  # nothing else hangs on the batch's padding
            longest = int(self._problem.frame.mask[rows].sum(dim=1).max())
            ids = ids[:, :, :longest]
        if self._problem.frame.task == "causal-lm":
            targets = ids  # a text is its own label
        elif not targets.is_floating_point():
            targets = targets[rows]
        else:
            targets = targets[:, rows].expand(len(ids), *[-1] * (targets.ndim - 1))
            if self._problem.frame.task == "masked-lm":
                targets = targets[:, :, : ids.shape[2]]
        x = engine.embed(ids)
        factors = engine.factors(x, targets, rows=rows, ids=ids, masks=self._masks)
        return {name: factor.double() for name, factor in factors.items()}


def _bytes(part: Factors) -> int:
    """Return how much memory ``part`` takes."""
    tensors = [tensor for factor in part.values() for tensor in vars(factor).values()]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
