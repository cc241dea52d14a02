"""Rearrange dummies: the discrete step of LAMP, scored with the gradient and a language model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.matching.prior import Prior
from attacks.matching.problem import Problem
from attacks.matching.ranking import least

MOVES = 4  # kinds of rearrangement


def moves(length: int, first: int, last: int, count: int, generator: torch.Generator) -> Tensor:
    """Return at most ``count`` orders of ``length`` places, and the order as it is first: (K, T).

    None is there twice. Places before ``first`` and from ``last`` on stay.
    """
    orders = {tuple(range(length)): None}
    for number in range(count if last - first > 1 else 0):
        order = moved(range(first, last), number, generator)
        orders[(*range(first), *order, *range(last, length))] = None
    return torch.tensor(list(orders))


def moved(places: Sequence[int], number: int, generator: torch.Generator) -> list[int]:
    """Return ``places`` rearranged; the kinds take turns by ``number``.

    Two places swapped, one place moved, a span moved, a beginning moved to the end.

    Source: LAMP (arXiv:2202.08827), sec. 4.2.
    """
    order, kind = list(places), number % MOVES
    first, second = torch.randint(len(order), (2,), generator=generator).tolist()
    low, high = sorted((first, second))
    if kind == 0:
        order[first], order[second] = order[second], order[first]
    elif kind == 1:
        order.insert(second, order.pop(first))
    elif kind == 2:
        span, rest = order[low : high + 1], order[:low] + order[high + 1 :]
        at = int(torch.randint(len(rest) + 1, (1,), generator=generator))
        order = rest[:at] + span + rest[at:]
    else:
        order = order[first + 1 :] + order[: first + 1]
    return order


def ends(problem: Problem, row: int) -> tuple[int, int]:
    """Return where the text ``row`` begins and ends: its first free place and after its last."""
    places = problem.frame.free[row].nonzero().flatten()
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


@dataclass(kw_only=True)
class Reorder:
    """Tries rearrangements of each sentence and keeps what is nearest and most fluent."""

    problem: Problem
    tries: int
    weight: float  # of the mean nats a token
    prior: Prior | None
    relative: bool  # to the distance: what the gradient tells for sure, no prior overrules
    scored: int = 0  # candidates whose gradient was computed

    @torch.no_grad()
    def best(
        self, x: Tensor, targets: Tensor, masks: Sequence[Tensor] | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return ``x`` (1, B, T, D) and ``targets``, each sentence in the order that is best."""
        for row in range(x.shape[1]):
            length = x.shape[2]
            orders = moves(length, *ends(self.problem, row), self.tries, generator).to(x.device)
            if len(orders) == 1:
                continue
            nats = self._nats(x, row, orders)
            order = orders[self._choose(x, targets, masks, row, orders, nats)]
            x = _ordered(x, row, order[None])
            if targets.is_floating_point() and targets.ndim == x.ndim:
                targets = _ordered(targets, row, order[None])
        return x, targets

    def _choose(
        self,
        x: Tensor,
        targets: Tensor,
        masks: Sequence[Tensor] | None,
        row: int,
        orders: Tensor,
        nats: Tensor,
    ) -> int:
        """Return the place of the best order; the first is as it is.

        A distance is never negative, so an order whose nats alone are worse than what the present
        one costs in all cannot be better, and its gradient need not be computed.
        """
        places = targets.is_floating_point() and targets.ndim == x.ndim
        distance = float(self.problem.score(x, targets, masks)[0])
        nats = self.weight * (max(0.0, distance) if self.relative else 1.0) * nats
        now = distance + float(nats[0])
        worth = (nats < now).nonzero().flatten()
        worth = worth[worth != 0]
        if not len(worth):
            return 0
        tried = _ordered(x, row, orders[worth])
        wanted = _ordered(targets, row, orders[worth]) if places else targets
        place, sum_ = least(self.problem, tried, wanted, masks, nats[worth])
        self.scored += len(worth)
        return int(worth[place]) if sum_ < now else 0

    def _nats(self, x: Tensor, row: int, orders: Tensor) -> Tensor:
        """Return what the prior says of the batch in each order, in mean nats a token: (K,)."""
        if self.prior is None or not self.weight:
            return x.new_zeros(len(orders))
        ids = self.problem.read(x)[0]  # (B, T)
        mask = self.problem.frame.mask
        rows = [ids[row][order][mask[row]] for order in orders]
        others = [ids[number][mask[number]] for number in range(len(ids)) if number != row]
        nats = self.prior.nats([tuple(text.tolist()) for text in (*rows, *others)]).to(x)
        total = nats[: len(rows)] + nats[len(rows) :].sum()
        return total / (mask.sum() - len(mask)).clamp_min(1)


def _ordered(x: Tensor, row: int, orders: Tensor) -> Tensor:
    """Return K copies of ``x`` (1, B, T, ...), sentence ``row`` in each of ``orders`` (K, T)."""
    copies = x.repeat(len(orders), *[1] * (x.ndim - 1))
    copies[:, row] = x[0, row][orders]
    return copies
