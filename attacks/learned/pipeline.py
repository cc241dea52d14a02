"""What defenses do to a simulated client's update, by the effects that the attack is told of.

Each follows the mechanism that the words of :mod:`fedsim.effects` are of, where they leave a choice
the commonest one: of entries set to zero the smallest of the whole update, unless a known rescaling
says that they were chosen by chance.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fedsim.effects import Clips, Effect, Noises, Rescales, Rounds, Signs, Truncates, Zeroes
from fedsim.errors import UnsupportedObservation
from fedsim.types import Parameters

LEAST = 2  # bits that an entry can be rounded to


@dataclass(frozen=True)
class Pipeline:
    """The effects in force, in order."""

    effects: tuple[Effect, ...] = ()

    def __post_init__(self) -> None:
        for effect in self.effects:
            missing = {
                Clips: "norm", Noises: "multiplier", Rescales: "divisor", Rounds: "bits",
                Truncates: "rank", Zeroes: "kept",
            }.get(type(effect))  # fmt: skip
            if missing and getattr(effect, missing) is None:
                raise UnsupportedObservation(
                    f"lti cannot simulate {effect!r}: its {missing} is not told"
                )
        if any(isinstance(effect, Noises) for effect in self.effects) and not self.clip:
            raise UnsupportedObservation(
                "lti cannot simulate noise in units of a norm that is not told"
            )
        if any(isinstance(one, Clips) and one.each for one in self.effects[1:]):
            raise UnsupportedObservation(
                "lti cannot simulate examples that are clipped after something else was done"
            )

    @property
    def clip(self) -> float:
        """The norm clipped to; 0: none."""
        norms = [effect.norm or 0.0 for effect in self.effects if isinstance(effect, Clips)]
        return norms[-1] if norms else 0.0

    @property
    def noise(self) -> float:
        """The standard deviation of the noise on each entry, of one example's update."""
        noises = [e.multiplier or 0.0 for e in self.effects if isinstance(e, Noises)]
        return self.clip * math.hypot(*noises)

    @property
    def each(self) -> bool:
        """Whether each example's gradient is clipped, and noise added, within training."""
        first = self.effects[0] if self.effects else None
        return isinstance(first, Clips) and first.each

    @property
    def after(self) -> "Pipeline":
        """What is done to an update whose training was private."""
        inside = 1 + (len(self.effects) > 1 and isinstance(self.effects[1], Noises))
        return Pipeline(self.effects[inside:]) if self.each else self

    def __call__(self, tensors: Parameters, generator: torch.Generator) -> dict[str, Tensor]:
        """Return what is sent of a raw update."""
        sent, clip = dict(tensors), 0.0
        for effect, after in pairwise((*self.effects, None)):
            if isinstance(effect, Clips):
                clip = effect.norm or 0.0
                sent = clipped(sent, clip)
            elif isinstance(effect, Noises):
                sent = noised(sent, clip * (effect.multiplier or 0.0), generator)
            elif isinstance(effect, Zeroes):
                by_chance = isinstance(after, Rescales)
                zero = some if by_chance else largest
                sent = zero(sent, effect.kept or 1.0, generator)
            elif isinstance(effect, Rescales):
                sent = {name: t / (effect.divisor or 1.0) for name, t in sent.items()}
            elif isinstance(effect, Rounds):
                sent = {name: rounded(t, effect.bits or 32) for name, t in sent.items()}
            elif isinstance(effect, Signs):
                sent = {name: signs(t, generator) for name, t in sent.items()}
            elif isinstance(effect, Truncates):
                sent = {name: truncated(t, effect.rank or 1) for name, t in sent.items()}
        return sent


def clipped(tensors: Parameters, norm: float) -> dict[str, Tensor]:
    """Return ``tensors`` scaled down to ``norm`` in L2, where they are above it."""
    whole = torch.stack([tensor.norm() for tensor in tensors.values()]).norm()
    factor = (norm / whole.clamp_min(1e-30)).clamp_max(1.0)
    return {name: tensor * factor for name, tensor in tensors.items()}


def noised(tensors: Parameters, std: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Return ``tensors`` with independent noise on every entry."""
    return {
        name: t + std * torch.randn(t.shape, generator=generator).to(t)
        for name, t in tensors.items()
    }


def some(tensors: Parameters, kept: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Return ``tensors`` with each entry kept by chance."""
    return {
        name: t * (torch.rand(t.shape, generator=generator) < kept).to(t)
        for name, t in tensors.items()
    }


def largest(tensors: Parameters, kept: float, _: torch.Generator) -> dict[str, Tensor]:
    """Return ``tensors`` with all but the largest entries of the whole update at zero."""
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])  # (N,)
    count = min(len(flat), max(1, round(kept * len(flat))))
    if count == len(flat):
        return dict(tensors)
    places = flat.abs().topk(count, sorted=False).indices
    thin = torch.zeros_like(flat)
    thin[places] = flat[places]
    parts = thin.split([tensor.numel() for tensor in tensors.values()])
    return {
        name: part.view_as(tensor)
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def rounded(tensor: Tensor, bits: int) -> Tensor:
    """Return ``tensor`` in ``bits`` an entry: a float of 16, else levels of its largest entry."""
    if bits >= 32:
        return tensor
    if bits == 16:
        return tensor.bfloat16().to(tensor)
    levels = 2 ** (max(bits, LEAST) - 1) - 1
    step = tensor.abs().max() / levels if tensor.numel() else tensor.sum()
    return tensor if step == 0 else (tensor / step).round() * step


def signs(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``tensor``'s signs times its mean magnitude; a zero's is a fair coin's."""
    sign = tensor.sign()
    if (zero := sign == 0).any():
        coins = torch.randint(2, (int(zero.sum()),), generator=generator)
        sign[zero] = (2 * coins - 1).to(sign)
    return sign * tensor.abs().mean()


def truncated(tensor: Tensor, rank: int) -> Tensor:
    """Return a matrix's strongest directions, where its factors are smaller than it."""
    if tensor.ndim != 2 or rank * sum(tensor.shape) >= tensor.numel():
        return tensor
    left, values, right = torch.linalg.svd(tensor, full_matrices=False)
    short: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    return short
