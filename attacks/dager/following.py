"""What followed each prefix of a next-token batch, its last tokens included, by what came back.

What comes back to a prefix is a sum over the tokens that followed it, each in its share of the
loss. One token's share is one over the number of predicted tokens of the batch.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attacks.dager import thresholds
from attacks.dager.back import Back
from fedsim.types import Tokens


class Following:
    """The tokens that followed each prefix of a next-token batch."""

    def __init__(self, back: Back, examples: int) -> None:
        """Hold what came ``back``, of a client that says it has so many ``examples``."""
        self.back = back
        self.examples = examples

    def read(
        self, leaves: Sequence[Tokens], whole: float | None
    ) -> tuple[tuple[Tokens, ...], int, bool]:
        """Return the sequences with last tokens, how many are told apart, and whether all are told.

        Texts of one token have no loss and leave no trace. So where all others are fewer than the
        client's examples, these may be more of each alike, or such texts: that is left open.

        Args:
            leaves: the longest prefixes.
            whole: the share of the whole loss, where that is known.
        """
        rows = {prefix: row for row, prefix in enumerate(self.back.prefixes)}
        follow: dict[Tokens, list[int]] = {prefix: [] for prefix in rows}
        for prefix in rows:
            if prefix[:-1] in follow:
                follow[prefix[:-1]].append(prefix[-1])
        read = {prefix: self._following(row, follow[prefix]) for prefix, row in rows.items()}
        solved = {prefix: shares for prefix, shares in read.items() if shares is not None}
        unit = self._unit([share for shares in solved.values() for share in shares.values()])
        counts = {prefix: _rounded(shares, unit) for prefix, shares in solved.items()}
        rest = [leaf for leaf in leaves if not sum(counts.get(leaf, {}).values())]
        sequences, flows = list[Tokens](), True
        for prefix, tokens in counts.items():
            for token, times in tokens.items():
                after = (*prefix, token)
                if after not in rest:  # where it goes on from there is not known: added below
                    ending = times - sum(counts.get(after, {}).values())
                    flows &= ending >= 0
                    sequences += [after] * ending
        last = [self._nearest(rows[leaf], unit) for leaf in rest]
        sequences += [(*leaf, *token) for leaf, token in zip(rest, last, strict=True)]
        total = len(rest) + sum(sum(tokens.values()) for tokens in counts.values())
        fits = whole is None or abs(total * unit / whole - 1) * total < 0.5  # else some are unseen
        read_whole = all(last) and len({*solved, *rest}) == len(rows) and flows and fits
        times, left = divmod(self.examples, max(len(sequences), 1))
        if read_whole and times and not left:
            return tuple(sequences) * times, len(sequences), times == 1
        return tuple(sequences), len(sequences), False

    def _unit(self, shares: Sequence[float]) -> float:
        """Return one token's share of the loss: the largest that makes ``shares`` whole.

        Nearly all, as what follows a prefix with near certainty is only roughly read.
        """
        positive = [share for share in shares if share > 0] or [1.0]
        sizes = torch.tensor(positive, dtype=torch.float64)
        usual = float(sizes.median())
        for parts in range(1, min(self.examples, thresholds.FOLLOWERS) + 1):
            whole = sizes * parts / usual
            near = (whole - whole.round()).abs() < thresholds.WHOLE_SHARE
            if near.double().mean() >= thresholds.NEARLY_ALL:
                return usual / parts
        return usual

    def _following(self, row: int, tokens: Sequence[int]) -> dict[int, float] | None:
        """Return the share of the loss of each token that follows a prefix; None: not resolved.

        What comes back is a sum over targets v of pull(W^T p) - pull(W_v), times a share of each.
        """
        known = list(tokens)
        goal = self.back.values[row]
        while True:
            atoms = self._atoms(row, known)
            parts = torch.linalg.lstsq(atoms.T, goal[:, None]).solution[:, 0]
            rest = goal - parts @ atoms
            if rest.norm() < thresholds.REST * goal.norm():
                return dict(zip(known, (-parts[1:]).clamp_min(0).tolist(), strict=True))
            if len(known) - len(tokens) >= min(self.examples, thresholds.FOLLOWERS):
                return None
            known.append(self._next(row, rest, known))

    def _atoms(self, row: int, tokens: Sequence[int]) -> Tensor:
        """Return what one unit of probability, and of each target, brings back: (1 + K, D)."""
        head, state = self.back.closing.head, self.back.closing.states[row : row + 1]
        chances = (self.back.closing.norm(state).to(head) @ head.T).softmax(dim=1)  # (1, V)
        rows = torch.cat([chances @ head, head[list(tokens)]]).double()
        return self.back.closing.norm.pull(state, rows[None])[0]

    def _nearest(self, row: int, unit: float) -> Tokens:
        """Return the token that alone follows a prefix if one is far nearer than others, or ().

        One that was all but certain brings back next to nothing, and is told by that.
        """
        head, norm = self.back.closing.head, self.back.closing.norm
        state = self.back.closing.states[row : row + 1]
        images = norm.pull(state.to(head), head[None])[0]  # (V, D)
        wanted = self._atoms(row, ())[0] - self.back.values[row] / unit
        distances, tokens = (images - wanted.to(head)).norm(dim=1).topk(2, largest=False)
        alone = distances[0] < thresholds.NEARER * distances[1]
        return (int(tokens[0]),) if alone else ()

    def _next(self, row: int, rest: Tensor, known: Sequence[int]) -> int:
        """Return the token whose image is best aligned with ``rest`` (D,)."""
        head, norm = self.back.closing.head, self.back.closing.norm
        state = self.back.closing.states[row : row + 1]
        images = norm.pull(state.to(head), head[None])[0]  # (V, D)
        score = (images @ rest.to(head)).abs() / images.norm(dim=1).clamp_min(1e-30)
        score[list(known)] = 0.0
        return int(score.argmax())


def _rounded(shares: Mapping[int, float], unit: float) -> dict[int, int]:
    """Return how many examples each token's share stands for."""
    return {token: round(share / unit) for token, share in shares.items()}
