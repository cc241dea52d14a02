"""Where sequences end, and how often each was there.

A prefix search finds the tree of all prefixes. What it cannot see, the last MLP shows (back.py):
what comes back from the loss to each prefix. A classifier's comes back to the last tokens alone, in
the amount (p - y) / B (counts.py). A next-token loss' holds, at every prefix, the tokens that
followed it (following.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.dager.alike import Alike
from attacks.dager.back import Back, come_back
from attacks.dager.counts import SeenTexts, count, enough, spread
from attacks.dager.following import Following
from attacks.dager.inputs import weight_blocks
from attacks.reads import example_share, shares_are_even, shown_decay
from fedsim.messages import Observation
from fedsim.types import Tokens


@dataclass(frozen=True, kw_only=True)
class Leaves:
    """Where a prefix search ended.

    Attributes:
        sequences: surest first.
        sound: no noise hides which prefixes are there, and the search looked at all of them.
        alike: what others cannot be told from.
        clear: prefixes that are clearly in both spans.
    """

    sequences: tuple[Tokens, ...]
    sound: bool
    alike: Alike
    clear: frozenset[Tokens]

    @property
    def prefixes(self) -> list[Tokens]:
        """The prefixes of all sequences, each once."""
        places = ((tokens, stop) for tokens in self.sequences for stop in range(1, len(tokens) + 1))
        return list(dict.fromkeys(tokens[:stop] for tokens, stop in places))


def with_endings(observation: Observation, leaves: Leaves, notes: Notes) -> tuple[Tokens, ...]:
    """Return ``leaves`` as the last MLP tells ends and counts; how sure that is goes in notes.

    Each leaf stands for one example at least, if no more prefixes were found than inputs are shown.
    So as many leaves as the client has examples stand for one each. That all prefixes were found,
    to their ends, need not be asked of the last MLP where they are as many as those inputs, and all
    of these far above the noise.
    """
    examples, prefixes = observation.update.num_examples, leaves.prefixes
    notes["alike"] = sum(leaf in leaves.alike for leaf in leaves.sequences)
    sound = leaves.sound and len(prefixes) <= notes["rank_1"] and not notes["alike"]
    classifies = observation.model.spec.task == "classification"
    whole = classifies and sound and len(prefixes) == notes["rank_1"]
    if whole and len(leaves.sequences) == examples and notes["faintest_1"] >= thresholds.FAINT:
        notes |= {"counted": True, "best_effort": False, "above_floor": examples}
        return leaves.sequences
    read = read_endings(observation, leaves, sound, notes)
    if read is None:
        notes["above_floor"] = min(len(leaves.sequences), examples) if sound else 0
        return leaves.sequences if sound else bounded(leaves.sequences, leaves, examples, notes)
    known = {*leaves.sequences, *read.sequences}
    notes["alike"] = sum(tokens in leaves.alike or tokens in read.alike for tokens in known)
    missing = not notes["blurred_1"] and len(prefixes) < notes["rank_1"]  # inputs of other texts
    sure = read.counted and not notes["alike"] and not missing
    notes |= {"explained": read.explained, "counted": sure, "best_effort": not sure}
    notes |= {"above_floor": min(read.seen, examples)}
    if sound or sure:
        return read.sequences
    return bounded(read.sequences, leaves, examples, notes)


def bounded(
    sequences: tuple[Tokens, ...], leaves: Leaves, examples: int, notes: Notes
) -> tuple[Tokens, ...]:
    """Return ``sequences``, no more than the client's ``examples``, and note how many are dropped.

    A client may state fewer than there are (batches, say). So while the span shows more inputs than
    those that were kept, one that is clearly in both spans is kept, if most of its own are new.
    """
    if not examples or len(sequences) <= examples:
        return sequences
    inputs = set(leaves.prefixes)

    def of(tokens: Tokens) -> set[Tokens]:
        return {tokens[:stop] for stop in range(1, len(tokens) + 1)} & inputs

    kept = list(sequences[:examples])
    held = set[Tokens]().union(*map(of, kept))
    for tokens in dict.fromkeys(sequences[examples:]):
        own = of(tokens)
        fresh = own - held
        is_clear = bool(own) and max(own, key=len) in leaves.clear
        fits = len(held) + len(fresh) <= notes["rank_1"]
        if is_clear and fits and len(fresh) >= thresholds.FRESH * len(own):
            kept.append(tokens)
            held |= fresh
    notes["dropped"] += len(set(sequences) - set(kept))
    notes["cut"] = notes["cut"] or len(set(sequences)) > len(set(kept))
    return tuple(kept)


@dataclass(frozen=True, kw_only=True)
class Endings:
    """The sequences of a batch, as the last MLP's gradient tells them.

    Attributes:
        sequences: with repetitions where ``counted``.
        explained: the share of the gradient's square that they explain, in [0, 1].
        seen: how many of the client's examples they stand for at the least.
        counted: whether the multiplicities are determined.
        alike: those whose last token another one may stand for.
    """

    sequences: tuple[Tokens, ...]
    explained: float
    seen: int
    counted: bool
    alike: frozenset[Tokens] = frozenset()


def read_endings(
    observation: Observation, leaves: Leaves, sound: bool, notes: Notes
) -> Endings | None:
    """Return the sequences whose prefixes are those of ``leaves``, or None where nothing tells.

    Args:
        observation: of a decoder's update.
        leaves: where the search ended.
        sound: whether each leaf is known to be there.
        notes: say where counting would be too much work.
    """
    model, found = observation.model, leaves.sequences
    inner = model.projections(model.layers - 1, "inner")[0]
    blocks = weight_blocks(observation, inner, shown_decay(observation))
    if not blocks or not found:
        return None
    closing = model.closing(observation.broadcast.parameters, found)
    if closing is None:
        return None
    gradient = blocks[0].double() * (-1 if observation.update.kind == "delta" else 1)
    back = come_back(found, closing, gradient)
    clear = back.explained >= enough(observation.update.tensors[inner.name])
    examples, share = observation.update.num_examples, example_share(observation)
    even = shares_are_even(observation)
    labels = model.spec.task == "classification"
    if clear and labels:
        return Labels(back).read(leaves, sound, examples, share, even=even, notes=notes)
    if clear:
        loss = None if share is None else share * examples
        told = Following(back, examples).read(found, loss, even=even)
        return Endings(
            sequences=told.sequences,
            explained=back.explained,
            seen=told.seen,
            counted=told.counted,
            alike=told.alike,
        )
    pruned = labels and back.explained >= thresholds.ROUGHLY
    sequences = Labels(back).pruned(leaves) if pruned else found
    seen = len(sequences)
    return Endings(sequences=sequences, explained=back.explained, seen=seen, counted=False)


class Labels:
    """What came back to each prefix of a classifier's batch, as dL/dlogits."""

    def __init__(self, back: Back) -> None:
        self._back = back
        head, states, norm = back.closing.head.double(), back.closing.states, back.closing.norm
        apart = (head[1:] - head[:1]).expand(len(states), -1, -1)  # dL/dlogits sums to 0
        images = norm.pull(states, apart)  # (N, K - 1, D)
        inverse, error = _inverse(images)
        rest = (back.values[:, None] @ images.mT @ inverse)[:, 0]  # (N, K - 1)
        missed = (back.values - (rest[:, None] @ images)[:, 0]).norm(dim=1)
        noise = torch.maximum(back.noise, missed)  # what no amount explains is noise, too
        self._amounts = torch.cat([-rest.sum(dim=1, keepdim=True), rest], dim=1).cpu()  # (N, K)
        self._doubt = (thresholds.DOUBT * noise * error).cpu()  # (N,)
        read = norm(states)
        self._chances = (read @ head.T).softmax(dim=1)
        self._slack = spread(self._chances, head, read).cpu()
        self._chances = self._chances.cpu()

    def read(
        self,
        leaves: Leaves,
        sound: bool,
        examples: int,
        share: float | None,
        *,
        even: bool,
        notes: Notes,
    ) -> Endings:
        """Return the sequences of the batch, as often as they were there where that is determined.

        Args:
            leaves: where the search ended.
            sound: whether each leaf is known to be there.
            examples: how many the client says it has.
            share: one example's share of the loss, where that is known.
            even: whether all examples have the same.
            notes: say where counting would be too much work.
        """
        prefixes = self._back.prefixes
        known = dict.fromkeys(leaves.sequences, sound)
        texts = SeenTexts(
            chances=self._chances,
            slack=self._slack,
            amounts=self._amounts,
            doubt=self._doubt,
            there=torch.tensor([known.get(prefix, False) for prefix in prefixes]),
        )
        counts = count(texts, examples, share, even=even, notes=notes)
        least = counts.times if counts is not None else self._above(thresholds.QUIET)
        times = {prefix: some for prefix, some in zip(prefixes, least, strict=True) if some}
        quiet = [
            leaf
            for leaf in leaves.sequences
            if not any(leaf[:stop] in times for stop in range(1, len(leaf) + 1))
        ]
        # One that fits its label too well to be seen is there, or the search was wrong.
        times |= dict.fromkeys(leaves.sequences if sound else quiet, 1) | times
        return Endings(
            sequences=tuple(prefix for prefix, some in times.items() for _ in range(some)),
            explained=self._back.explained,
            seen=sum(least) if even else sum(some > 0 for some in least),
            counted=counts is not None and counts.sure and not quiet,
        )

    def pruned(self, leaves: Leaves) -> tuple[Tokens, ...]:
        """Return ``leaves``, cut where one goes on beyond a loud end and is quiet itself."""
        loud = zip(self._back.prefixes, self._above(thresholds.LOUD), strict=True)
        ends = {prefix for prefix, is_loud in loud if is_loud}
        cut = []
        for leaf in leaves.sequences:
            stops = [stop for stop in range(1, len(leaf) + 1) if leaf[:stop] in ends]
            cut.append(leaf[: stops[-1]] if stops else leaf)
        return tuple(dict.fromkeys(cut))

    def _above(self, share: float) -> list[int]:
        """Return 1 for each prefix whose amount is above that ``share`` of the largest, else 0."""
        sizes = self._amounts.abs().amax(dim=1)
        return (sizes > share * sizes.max()).int().tolist()


def _inverse(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverse Gram matrices of ``images`` (N, K, D), and what they make of noise.

    Returns:
        (N, K, K), and (N,) the largest standard deviation of an amount, of its sum's too, that is
        fitted to values with a deviation of 1: infinite where images are not independent.
    """
    values, vectors = torch.linalg.eigh(images @ images.mT)
    flat = values[:, 0] <= torch.finfo(values.dtype).eps * values[:, -1]
    inverse = (vectors / values.clamp_min(1e-300)[:, None]) @ vectors.mT
    spreads = torch.cat([inverse.diagonal(dim1=1, dim2=2), inverse.sum(dim=(1, 2))[:, None]], dim=1)
    error = spreads.clamp_min(0).amax(dim=1).sqrt()
    return inverse, torch.where(flat, torch.inf, error)
