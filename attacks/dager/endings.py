"""Where sequences end, how often each was there, and what their last tokens were.

A prefix search finds the tree of all prefixes. What it cannot see, the last MLP shows: its output
map's gradient is A^T D, where the rows of A, the map's inputs at each prefix, are known once the
prefixes are, and are fewer than they are wide. So D = pinv(A^T) G is read off: the gradient that
comes back to each prefix. A classifier's comes back to the last tokens alone, in the amount
(p - y) / B. A next-token loss' holds, at every prefix, the tokens that followed it.

Source: ours; the algebra is that of a linear layer and a norm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.dager.counts import Counted, enough, whole_counts
from attacks.dager.inputs import weight_blocks
from attacks.reads import shown_decay
from fedsim.messages import Observation
from fedsim.models import Closing
from fedsim.types import Tokens


def with_endings(
    observation: Observation, leaves: tuple[Tokens, ...], vague: bool, notes: Notes
) -> tuple[Tokens, ...]:
    """Return ``leaves`` as the last MLP tells ends and counts; how sure that is goes in notes.

    It need not be asked where the prefixes are as many as the inputs that the span shows, and the
    sentences as many as the client's examples.
    """
    prefixes = {leaf[:stop] for leaf in leaves for stop in range(1, len(leaf) + 1)}
    classifies = observation.model.spec.task == "classification"
    whole = classifies and len(leaves) == observation.update.num_examples
    if whole and len(prefixes) == notes["rank_1"] and not (vague or notes["cut"]):
        notes |= {"counted": True, "best_effort": False}
        return leaves
    endings = read_endings(observation, leaves)
    if endings is None:
        return leaves
    notes |= {"explained": endings.explained, "counted": endings.counted}
    notes["best_effort"] = not endings.counted
    return endings.sequences


def read_endings(observation: Observation, leaves: Sequence[Tokens]) -> Counted | None:
    """Return the sequences whose prefixes are those of ``leaves``, or None where nothing tells."""
    model = observation.model
    (inner,) = model.projections(model.layers - 1, "inner")
    blocks = weight_blocks(observation, inner, shown_decay(observation))
    if not blocks or not leaves:
        return None
    closing = model.closing(observation.broadcast.parameters, leaves)
    if closing is None:
        return None
    prefixes, closing = _distinct(leaves, closing)
    gradient = blocks[0].double() * (-1 if observation.update.kind == "delta" else 1)
    back, explained = coming_back(closing.activations, gradient)
    labels = model.spec.task == "classification"
    clear = explained >= enough(observation.update.tensors[inner.name])
    examples = observation.update.num_examples
    tree = Tree(prefixes=prefixes, closing=closing, back=back, examples=examples)
    sequences, counted = tuple(leaves), False
    if clear:
        sequences, counted = tree.read_labels(leaves) if labels else tree.read_tokens(leaves)
    elif labels and explained >= thresholds.ROUGHLY:
        sequences = tree.pruned(leaves)
    return Counted(sequences=sequences, explained=explained, clear=clear, counted=counted)


def _distinct(leaves: Sequence[Tokens], closing: Closing) -> tuple[list[Tokens], Closing]:
    """Return the prefixes of ``leaves``, each once, and what the last block makes of them, float64.

    Args:
        leaves: sequences.
        closing: of each token of each sequence, one after the other.
    """
    rows: dict[Tokens, int] = {}
    places = ((tokens, stop) for tokens in leaves for stop in range(1, len(tokens) + 1))
    for row, (tokens, stop) in enumerate(places):
        rows.setdefault(tokens[:stop], row)
    kept = torch.tensor(list(rows.values()), device=closing.states.device)
    activations, states = closing.activations[kept].double(), closing.states[kept].double()
    return list(rows), replace(closing, activations=activations, states=states)


def coming_back(activations: Tensor, gradient: Tensor) -> tuple[Tensor, float]:
    """Return D (N, D) with A^T D = G, and the share of G's square that it explains.

    Args:
        activations: (N, I) the map's inputs, N <= I.
        gradient: (I, D) the map's gradient.
    """
    size = gradient.square().sum()
    if len(activations) > activations.shape[1] or not size:
        return torch.zeros(len(activations), gradient.shape[1]).double(), 0.0
    basis, triangle = torch.linalg.qr(activations.T)
    inside = basis.T @ gradient
    back = torch.linalg.solve_triangular(triangle, inside, upper=True)
    return back, (inside.square().sum() / size).item()


@dataclass(kw_only=True)
class Tree:
    """The prefixes, what the last block makes of them, and what came back to each."""

    prefixes: Sequence[Tokens]
    closing: Closing  # of the prefixes, float64
    back: Tensor  # (N, D) float64
    examples: int  # as many as the client says

    def read_labels(self, leaves: Sequence[Tokens]) -> tuple[tuple[Tokens, ...], bool]:
        """Return the sequences of a classifier's batch, and whether their counts are determined."""
        logits, amounts = self._logits()
        sizes = amounts.abs().amax(dim=1)
        ends = (sizes > thresholds.QUIET * sizes.max()).tolist()
        rows = {prefix: row for row, prefix in enumerate(self.prefixes) if ends[row]}
        whole = self._counted(rows, logits, amounts)
        if whole is not None:
            return whole, True
        for leaf in leaves:  # one that fits its label too well to be seen ends there all the same
            if not any(leaf[:stop] in rows for stop in range(1, len(leaf) + 1)):
                rows[leaf] = self.prefixes.index(leaf)
        whole = self._counted(rows, logits, amounts)
        return (tuple(rows), False) if whole is None else (whole, True)

    def _counted(
        self, rows: Mapping[Tokens, int], logits: Tensor, amounts: Tensor
    ) -> tuple[Tokens, ...] | None:
        """Return the sequences ``rows`` as often as they were there, where that is determined."""
        chosen = list(rows.values())
        counts = whole_counts(logits[chosen], amounts[chosen], self.examples)
        if counts is None:
            return None
        repeated = zip(rows, counts, strict=True)
        return tuple(prefix for prefix, times in repeated for _ in range(times))

    def pruned(self, leaves: Sequence[Tokens]) -> tuple[Tokens, ...]:
        """Return ``leaves``, cut where one goes on beyond a loud end and is quiet itself."""
        sizes = self._logits()[1].abs().amax(dim=1)
        loud = (sizes > thresholds.LOUD * sizes.max()).tolist()
        ends = {prefix for row, prefix in enumerate(self.prefixes) if loud[row]}
        cut = []
        for leaf in leaves:
            stops = [stop for stop in range(1, len(leaf) + 1) if leaf[:stop] in ends]
            cut.append(leaf[: stops[-1]] if stops else leaf)
        return tuple(dict.fromkeys(cut))

    def _logits(self) -> tuple[Tensor, Tensor]:
        """Return each prefix's label probabilities and dL/dlogits: (N, K) each, on the CPU."""
        head = self.closing.head.double()
        states = self.closing.states
        apart = (head[1:] - head[:1]).expand(len(states), -1, -1)  # dL/dlogits sums to 0
        images = self.closing.norm.pull(states, apart)  # (N, K - 1, D)
        rest = torch.linalg.lstsq(images.mT, self.back[..., None]).solution[..., 0]
        amounts = torch.cat([-rest.sum(dim=1, keepdim=True), rest], dim=1)
        return (self.closing.norm(states) @ head.T).softmax(dim=1).cpu(), amounts.cpu()

    def read_tokens(self, leaves: Sequence[Tokens]) -> tuple[tuple[Tokens, ...], bool]:
        """Return the sequences of a next-token batch, last tokens included, as far as it tells."""
        rows = {prefix: row for row, prefix in enumerate(self.prefixes)}
        follow: dict[Tokens, list[int]] = {prefix: [] for prefix in rows}
        for prefix in rows:
            if prefix[:-1] in follow:
                follow[prefix[:-1]].append(prefix[-1])
        read = {prefix: self._following(row, follow[prefix]) for prefix, row in rows.items()}
        solved = {prefix: shares for prefix, shares in read.items() if shares is not None}
        unit = self._unit([share for shares in solved.values() for share in shares.values()])
        rest = [leaf for leaf in leaves if not sum(_rounded(solved.get(leaf, {}), unit))]
        sequences: list[Tokens] = []
        for prefix, shares in solved.items():
            for token, times in zip(shares, _rounded(shares, unit), strict=True):
                after = (*prefix, token)
                if after not in rest:  # where it goes on from there is not known: added below
                    times -= sum(_rounded(solved.get(after, {}), unit))
                    sequences += [after] * times
        last = [self._nearest(rows[leaf], unit) for leaf in rest]
        sequences += [(*leaf, *token) for leaf, token in zip(rest, last, strict=True)]
        times, left = divmod(self.examples, max(len(sequences), 1))  # the unit is the largest
        sure = all(last) and len({*solved, *rest}) == len(rows) and times and not left
        return tuple(sequences) * (times if sure else 1), bool(sure)

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
        goal = self.back[row]
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
        head, state = self.closing.head, self.closing.states[row : row + 1]
        chances = (self.closing.norm(state).to(head) @ head.T).softmax(dim=1)  # (1, V)
        rows = torch.cat([chances @ head, head[list(tokens)]]).double()
        return self.closing.norm.pull(state, rows[None])[0]

    def _nearest(self, row: int, unit: float) -> Tokens:
        """Return the token that alone follows a prefix if one is far nearer than others, or ().

        One that was all but certain brings back next to nothing, and is told by that.
        """
        head, norm = self.closing.head, self.closing.norm
        state = self.closing.states[row : row + 1]
        images = norm.pull(state.to(head), head[None])[0]  # (V, D)
        wanted = self._atoms(row, ())[0] - self.back[row] / unit
        distances, tokens = (images - wanted.to(head)).norm(dim=1).topk(2, largest=False)
        alone = distances[0] < thresholds.NEARER * distances[1]
        return (int(tokens[0]),) if alone else ()

    def _next(self, row: int, rest: Tensor, known: Sequence[int]) -> int:
        """Return the token whose image is best aligned with ``rest`` (D,)."""
        head, norm = self.closing.head, self.closing.norm
        state = self.closing.states[row : row + 1]
        images = norm.pull(state.to(head), head[None])[0]  # (V, D)
        score = (images @ rest.to(head)).abs() / images.norm(dim=1).clamp_min(1e-30)
        score[list(known)] = 0.0
        return int(score.argmax())


def _rounded(shares: Mapping[int, float], unit: float) -> list[int]:
    """Return how many examples each of ``shares`` stands for."""
    return [round(share / unit) for share in shares.values()]
