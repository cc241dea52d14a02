"""Distances of token sequences: a changed sequence's gradient is computed, the others' are kept.

A batch's gradient is the sum of its sequences' parts, as no layer mixes them. So a candidate that
differs in one sequence costs one sequence, whatever the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.matching.distances import Distance
from attacks.matching.engine import Factors
from attacks.matching.factors import Once, Sum, joined
from attacks.matching.problem import TOKENS_AT_ONCE, Problem

KEPT = 256  # sequences whose gradients are kept


class TokenScores:
    """Distances of whole batches of tokens, with the word embeddings' gradient where it is seen.

    Attributes:
        computed: how many sequences' gradients were computed.
    """

    def __init__(
        self,
        problem: Problem,
        distance: Distance,
        targets: Tensor,
        masks: Sequence[Tensor] | None = None,
    ) -> None:
        self._problem, self._distance = problem, distance
        self._targets, self._masks = targets, masks
        self._observed = dict(problem.observed)
        name = problem.engine.words_name
        if name is not None and problem.words_observed is not None:
            self._observed[name] = problem.words_observed
        self._parts: dict[tuple[int, ...], Factors] = {}
        self._known: dict[tuple[int, ...], float] = {}
        self.computed = 0

    @torch.no_grad()
    def whole(self, ids: Tensor) -> Tensor:
        """Return the distances of K batches of tokens (K, B, T): (K,)."""
        step = max(1, TOKENS_AT_ONCE // ids[0].numel())
        rows = list(range(ids.shape[1]))
        parts = [self._factors(ids[at : at + step], rows) for at in range(0, len(ids), step)]
        return torch.cat([self._distance(part, self._observed) for part in parts])

    @torch.no_grad()
    def replaced(self, ids: Tensor, row: int, texts: Tensor) -> Tensor:
        """Return the distances of ``ids`` (B, T) with sequence ``row`` as each of ``texts`` (K, T).

        A batch that was asked about before is not computed again.
        """
        keys = []
        for text in texts.tolist():
            changed = ids.tolist()
            changed[row] = text
            keys.append(tuple(token for line in changed for token in line))
        fresh = [place for place, key in enumerate(keys) if key not in self._known]
        if fresh:
            rest = self._rest(ids, row)
            step = max(1, TOKENS_AT_ONCE // texts.shape[1])
            for at in range(0, len(fresh), step):
                some = fresh[at : at + step]
                new = self._factors(texts[some][:, None], [row])
                both = {n: Sum(rest[n], one) for n, one in new.items()} if rest else new
                found = self._distance(both, self._observed).tolist()
                self._known |= {keys[place]: one for place, one in zip(some, found, strict=True)}
        return torch.tensor([self._known[key] for key in keys])

    def _rest(self, ids: Tensor, row: int) -> Factors:
        """Return the gradient of all sequences but ``row``; {} where there is no other."""
        parts = [self._part(ids, other) for other in range(len(ids)) if other != row]
        if not parts:
            return {}
        return {name: Once(joined([part[name] for part in parts])) for name in parts[0]}

    def _part(self, ids: Tensor, row: int) -> Factors:
        key = (row, *ids[row].tolist())
        if key not in self._parts:
            if len(self._parts) >= KEPT:
                self._parts.pop(next(iter(self._parts)))
            self._parts[key] = self._factors(ids[None, [row]], [row])
        return self._parts[key]

    def _factors(self, ids: Tensor, rows: list[int]) -> Factors:
        """Return the part of ``rows`` in the gradients of K candidates (K, S, T)."""
        engine, targets = self._problem.engine, self._problem.shares(self._targets)
        if self._problem.frame.task == "causal-lm":
            targets = ids  # a text is its own label
        elif not targets.is_floating_point():
            targets = targets[rows]
        else:
            targets = targets[:, rows].expand(len(ids), *[-1] * (targets.ndim - 1))
        self.computed += len(ids) * len(rows)
        x = engine.embed(ids)
        return engine.factors(x, targets, rows=rows, ids=ids, masks=self._masks)
