"""What followed each prefix of a next-token batch, its last tokens included, by what came back.

What comes back to a prefix is a sum over the tokens that followed it, each in its share of the
loss. One token's share is one over the number of predicted tokens of the batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.dager import thresholds
from attacks.dager.back import Back
from fedsim.types import Tokens


@dataclass(frozen=True, kw_only=True)
class Followed:
    """The sequences of a next-token batch, last tokens included.

    Attributes:
        sequences: with repetitions.
        seen: how many are told apart.
        counted: whether they are all.
        alike: those whose last token may as well be another.
    """

    sequences: tuple[Tokens, ...]
    seen: int
    counted: bool
    alike: frozenset[Tokens]


class Following:
    """The tokens that followed each prefix of a next-token batch."""

    def __init__(self, back: Back, examples: int) -> None:
        """Hold what came ``back``, of a client that says it has so many ``examples``."""
        self.back = back
        self.examples = examples

    def read(self, leaves: Sequence[Tokens], whole: float | None, *, even: bool) -> Followed:
        """Return the sequences, and how sure they are.

        Texts of one token have no loss and leave no trace. So where all others are fewer than the
        client's examples, these may be more of each alike, or such texts: that is left open.

        Args:
            leaves: the longest prefixes.
            whole: the share of the whole loss, where that is known.
            even: whether every token has the same share; else no share says how often a text was
                there, and as many texts as examples stand for one each.
        """
        rows = {prefix: row for row, prefix in enumerate(self.back.prefixes)}
        solved = self._solved(rows)
        unit = self._unit([share for shares in solved.values() for share in shares.values()])
        counts = {prefix: _rounded(shares, unit) for prefix, shares in solved.items()}
        rest = [leaf for leaf in leaves if not sum(counts.get(leaf, {}).values())]
        sequences, flows = _ended(counts, rest)
        last = [self._nearest(rows[leaf], unit) for leaf in rest]
        sequences += [(*leaf, *token) for leaf, token in zip(rest, last, strict=True)]
        total = len(rest) + sum(sum(tokens.values()) for tokens in counts.values())
        fits = whole is None or abs(total * unit / whole - 1) * total < 0.5  # else some are unseen
        read_whole = all(last) and len({*solved, *rest}) == len(rows) and flows and fits
        if not even:
            parts = [share / unit for shares in solved.values() for share in shares.values()]
            read_whole &= len(set(sequences)) == len(sequences) and all(map(_is_whole, parts))
        times, left = divmod(self.examples, max(len(sequences), 1))
        again = times if read_whole and times and not left else 1
        once = set(sequences)
        return Followed(
            sequences=tuple(sequences) * again,
            seen=len(sequences if even else once),
            counted=read_whole and len(sequences) == self.examples,
            alike=frozenset(s for s in once if self._has_twin(s, rows.get(s[:-1]), unit)),
        )

    def _solved(self, rows: Mapping[Tokens, int]) -> dict[Tokens, dict[int, float]]:
        """Return the share of each token that follows a prefix, where that is resolved."""
        follow: dict[Tokens, list[int]] = {prefix: [] for prefix in rows}
        for prefix in rows:
            if prefix[:-1] in follow:
                follow[prefix[:-1]].append(prefix[-1])
        read = {prefix: self._following(row, follow[prefix]) for prefix, row in rows.items()}
        return {prefix: shares for prefix, shares in read.items() if shares is not None}

    def _has_twin(self, tokens: Tokens, row: int | None, unit: float) -> bool:
        """Return whether another last token would have brought back the same to a prefix.

        That token alone is read off the head: the model never saw it.
        """
        if row is None:
            return False
        images = self._images(row)
        own = images[tokens[-1]]
        same = thresholds.REST * float(self.back.values[row].norm()) / unit  # what passes as none
        near = max(thresholds.RESOLUTION * float(own.norm()), same)
        return int(((images - own).norm(dim=1) <= near).sum()) > 1

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
        images = self._images(row)
        wanted = self._atoms(row, ())[0] - self.back.values[row] / unit
        distances, tokens = (images - wanted.to(images)).norm(dim=1).topk(2, largest=False)
        alone = distances[0] < thresholds.NEARER * distances[1]
        return (int(tokens[0]),) if alone else ()

    def _next(self, row: int, rest: Tensor, known: Sequence[int]) -> int:
        """Return the token whose image is best aligned with ``rest`` (D,)."""
        images = self._images(row)
        score = (images @ rest.to(images)).abs() / images.norm(dim=1).clamp_min(1e-30)
        score[list(known)] = 0.0
        return int(score.argmax())

    def _images(self, row: int) -> Tensor:
        """Return what each token of the head would bring back to a prefix: (V, D)."""
        head, state = self.back.closing.head, self.back.closing.states[row : row + 1]
        images: Tensor = self.back.closing.norm.pull(state.to(head), head[None])[0]
        return images


def _rounded(shares: Mapping[int, float], unit: float) -> dict[int, int]:
    """Return how many examples each token's share stands for."""
    return {token: round(share / unit) for token, share in shares.items()}


def _is_whole(share: float) -> bool:
    """Return whether a share, in units, is near a whole number that is not 0."""
    return round(share) > 0 and abs(share - round(share)) < thresholds.WHOLE_SHARE


def _ended(
    counts: Mapping[Tokens, Mapping[int, int]], rest: Sequence[Tokens]
) -> tuple[list[Tokens], bool]:
    """Return where sequences end, as often as they do, and whether no more go on than get there.

    Args:
        counts: how often each token follows a prefix.
        rest: leaves of which that is not known.
    """
    sequences, flows = list[Tokens](), True
    for prefix, tokens in counts.items():
        for token, times in tokens.items():
            after = (*prefix, token)
            if after not in rest:
                ending = times - sum(counts.get(after, {}).values())
                flows &= ending >= 0
                sequences += [after] * ending
    return sequences, flows
