"""A matching problem: an observed gradient, dummies to fit to it, how to read tokens off them."""

import contextlib
import functools
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from attacks.base import Notes
from attacks.matching.adaptive import adapted
from attacks.matching.distances import Cosine, Distance, Observed
from attacks.matching.engine import Engine, Factors
from attacks.matching.frame import Frame, find_frame
from attacks.matching.halves import Halves, has_bfloat16
from attacks.reads import clip_of, observed_gradient, share_of
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation, Reconstruction
from fedsim.types import Tokens

logger = logging.getLogger("fedsim.attacks")

TOKENS_AT_ONCE = 2048  # of all candidates that are scored together
PAUSE = 2.0  # seconds between two lines of progress

MakeDistance = Callable[[Mapping[str, Tensor]], Distance]


@functools.lru_cache(maxsize=4)
def unused(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that a vocabulary keeps free, so no text has: BERT's [unused0] and on."""
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return frozenset(place for place, word in enumerate(words) if _UNUSED.fullmatch(word or ""))


_UNUSED = re.compile(r"\[unused\d+\]")


class Problem:
    """Find dummies whose gradient is the observed one.

    Attributes:
        frame: what is known or assumed of the batch.
        engine: computes dummies' gradients.
        observed: the gradient to match, by parameter; without those that say nothing. In ``dtype``.
        adapts: whether a defense that is known changes the distance.
        size: the mean norm of a token's embedding.
        notes: for the record.
    """

    def __init__(
        self,
        observation: Observation,
        generator: torch.Generator,
        make: MakeDistance,
        names: Iterable[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = observation.model
        self.frame: Frame = find_frame(observation, generator)
        # sorted: a sum of floats hangs on its order
        chosen = sorted(observation.update.tensors if names is None else names)
        share = share_of(observation)
        sent = observed_gradient(observation, chosen)
        gradient = {name: share * tensor for name, tensor in sent.items()}
        self._clip = clip_of(observation)
        # an example's gradient is clipped by the norm of all that is sent
        needed = gradient if self._clip is None else sorted(observation.update.tensors)
        self.engine = Engine(observation, self.frame, needed, whole=self._clip is not None)
        matched = [name for name in self.engine.names if name in gradient]
        if not matched:
            raise UnsupportedObservation(
                "matching needs the gradient of more than the token embeddings, but all else is "
                "frozen, missing or of modules that nobody knows"
            )
        self.observed = Observed({name: gradient[name].to(dtype) for name in matched})
        self.words_observed = gradient.get(self.engine.words_name or "")
        oblivious = make(self.observed)
        self.distance = adapted(oblivious, observation)
        self.adapts = self._clip is not None or self.distance != oblivious
        self.size = float(self.engine.words.norm(dim=1).mean())
        self.notes: Notes = {**self.frame.notes, "tensors": len(self.observed)}
        self.notes |= {"left_out": len(self.engine.left_out), "adapts": self.adapts}
        self._unit = torch.nn.functional.normalize(self.engine.words, dim=1)
        tokenizer = self.model.tokenizer
        self._allowed = torch.ones(self.model.vocabulary, dtype=torch.bool)
        self._allowed[sorted(self.model.special | unused(tokenizer))] = False
        self._allowed[len(tokenizer) :] = False
        self._rounded = self._rounding()
        self._said = 0.0

    def _rounding(self) -> contextlib.AbstractContextManager[object]:
        """Return how a descent computes: in float32, or its large products in bfloat16.

        Other distances than cosines are differences of large numbers, and a vocabulary's logits
        decide among many tokens: neither is rounded. On a GPU small products gain nothing.
        """
        device = self.engine.words.device
        if device.type != "cpu" or not has_bfloat16(device) or type(self.distance) is not Cosine:
            return contextlib.nullcontext()
        return Halves(whole=[self.engine.words, *self.engine.heads()])

    @property
    def silent(self) -> bool:
        """Whether the update says nothing at all: nothing but zeros."""
        return not any(bool(tensor.any()) for tensor in self.observed.values())

    # Dummies

    def gaussian(self, count: int, generator: torch.Generator, deviation: float = 1.0) -> Tensor:
        """Return dummies drawn from N(0, deviation^2), known places set: (count, B, T, D)."""
        shape = (count, *self.frame.tokens.shape, self.engine.words.shape[1])
        drawn = deviation * torch.randn(shape, generator=generator).to(self.engine.words)
        return self.pin(drawn)

    @torch.no_grad()
    def shuffled(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return ``x`` (1, B, T, D) and ``count`` orders of it, all sentences in the same.

        A sentence's first and last place stay, and a shorter one is ordered within itself.
        """
        length, sizes = x.shape[2], self.frame.mask.sum(dim=1).tolist()
        orders = torch.arange(length).repeat(count + 1, len(sizes), 1)  # (K, B, T)
        for number in range(1, count + 1):
            inner = torch.randperm(max(0, length - 2), generator=generator) + 1
            for row, size in enumerate(sizes):
                orders[number, row, 1 : max(1, size - 1)] = inner[inner < size - 1]
        rows = torch.arange(len(sizes))[:, None]
        moved = x[0][rows.to(x.device), orders.to(x.device)]  # (K, B, T, D)
        return self.pin(moved.contiguous())

    @torch.no_grad()
    def pin(self, x: Tensor) -> Tensor:
        """Set the known places of ``x`` (K, B, T, D), in place, and return it."""
        known = ~self.frame.free
        x[:, known] = self.engine.embed(self.frame.tokens[known])
        return x

    @torch.no_grad()
    def rescale(self, x: Tensor) -> Tensor:
        """Return ``x`` with every free vector at the norm of a mean token embedding."""
        return self.pin(x * (self.size / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)))

    def first_targets(self, count: int) -> Tensor:
        """Return what stands for the labels: ids that are known, else logits to optimise.

        Of classification (B,) int64 or (K, B, C) zeros; of other tasks (K, B, T, V) zeros.
        """
        if self.frame.labels is not None:
            return self.frame.labels
        size: tuple[int, ...] = (len(self.frame.tokens), self.model.spec.num_labels)
        if self.frame.task != "classification":
            size = (*self.frame.tokens.shape, self.model.vocabulary)
        return torch.zeros(count, *size, device=self.engine.words.device)

    def shares(self, targets: Tensor) -> Tensor:
        """Return targets as ``Engine.factors`` takes them: ids as they are, logits as shares."""
        if not targets.is_floating_point():
            return targets
        if self.frame.task != "masked-lm":
            return targets.softmax(dim=-1)
        hidden = self.frame.free[..., None].logical_not()  # a place of a known token has no loss
        flat = targets.masked_fill(hidden, -torch.inf).flatten(1)
        return flat.softmax(dim=1).view(targets.shape)

    # Distances

    def loss(self, x: Tensor, targets: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Return the distances of K dummies, to differentiate: (K,)."""
        with torch.enable_grad(), self._rounded:
            shares = self.shares(targets)
            scales = self._scales(x.detach(), shares.detach(), masks)
            factors = self.engine.factors(x, shares, graph=True, masks=masks, scales=scales)
            return self.distance(self._matched(factors), self.observed)

    @torch.no_grad()
    def score(
        self,
        x: Tensor,
        targets: Tensor,
        masks: Sequence[Tensor] | None = None,
        distance: Distance | None = None,
    ) -> Tensor:
        """Return the distances of K dummies, in as many parts as memory asks for: (K,).

        Args:
            x: (K, B, T, D).
            targets: as ``first_targets`` gives them, or (K, B, T) ids of the texts.
            masks: of dropout; None: it is off.
            distance: in place of the problem's own.
        """
        distance = distance or self.distance
        step = max(1, TOKENS_AT_ONCE // self.frame.tokens.numel())
        parts = []
        for start in range(0, len(x), step):
            dummies = x[start : start + step]
            wanted = targets
            if targets.ndim > 1:
                wanted = targets[start : start + step] if len(targets) > 1 else targets
                wanted = wanted.expand(len(dummies), *wanted.shape[1:])
            shares = self.shares(wanted)
            scales = self._scales(dummies, shares, masks)
            factors = self.engine.factors(dummies, shares, masks=masks, scales=scales)
            parts.append(distance(self._matched(factors), self.observed))
        return torch.cat(parts)

    def _matched(self, factors: Factors) -> Factors:
        """Return those of the parameters that are matched."""
        return {name: factor for name, factor in factors.items() if name in self.observed}

    def _scales(self, x: Tensor, shares: Tensor, masks: Sequence[Tensor] | None) -> Tensor | None:
        """Return what clipping multiplies each dummy's gradient by: (K, B); None: nothing.

        The norm is over all parameters that were sent, as the client's is; of the word embeddings
        as if no token stood twice, and without them where they are the head, too. An example's loss
        is then the mean over its own tokens, not over the batch's.
        """
        if self._clip is None:
            return None
        (k, size), places = x.shape[:2], torch.arange(x.shape[2], device=x.device)
        scales = []
        for row in range(size):
            target = shares[[row]] if shares.ndim == 1 else shares[:, [row]]
            ids = places.expand(k, 1, -1)
            parts = self.engine.factors(x[:, [row]], target, rows=[row], ids=ids, masks=masks)
            norm = torch.stack([factor.square() for factor in parts.values()]).sum(dim=0).sqrt()
            share = self.frame.part(row) or 1.0  # a text of one token has no loss
            kept = (self._clip * share / norm.clamp_min(1e-12)).clamp_max(1.0)
            scales.append(kept / (share * size))
        return torch.stack(scales, dim=1)

    # Tokens

    @torch.no_grad()
    def read(self, x: Tensor) -> Tensor:
        """Return the tokens nearest by cosine to the vectors ``x`` (..., B, T, D): (..., B, T)."""
        unit = torch.nn.functional.normalize(x, dim=-1)
        close = (unit @ self._unit.T).masked_fill(~self._allowed.to(x.device), -2.0)
        return torch.where(self.frame.free, close.argmax(dim=-1), self.frame.tokens)

    def texts(self, ids: Tensor) -> tuple[Tokens, ...]:
        """Return the texts that ``ids`` (B, T) stand for."""
        return self.frame.sequences(ids, self.model.suffix)

    def result(self, x: Tensor, targets: Tensor, **notes: bool | float) -> Reconstruction:
        """Return the guess that ``x`` (1, B, T, D) stands for, with its distance."""
        distance = float(self.score(x, targets)[0])
        notes = {**self.notes, **notes, "distance": distance}
        return Reconstruction(sequences=self.texts(self.read(x)[0]), diagnostics=notes)

    def say(self, step: int, steps: int, distance: float, x: Tensor) -> None:
        """Log the progress and the best reconstruction so far, now and then."""
        if time.monotonic() - self._said < PAUSE or not logger.isEnabledFor(logging.INFO):
            return
        self._said = time.monotonic()
        first = self.texts(self.read(x)[0])[0]
        text = self.model.tokenizer.decode(list(first), skip_special_tokens=True)
        logger.info("step %d/%d, distance %.4f: %s", step, steps, distance, text)
