"""Read the loss's slope in a classifier's logits: the mean over B texts of p - y, by label.

Three parts of an update tell it: the gradient of the head's bias is it; that of the bias of the
last norm, whose output the head reads, is W^T of it; that of the head's weight W is the mean of
(p - y) h^T, so of its rank of one where there is one text, and where all states h share a direction
m, with m h = 1, its product with m.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.reads.effects import share_of
from attacks.reads.gradient import gradient_of
from fedsim.finite import finite
from fedsim.messages import Observation

SURE = 3.0  # standard deviations
LEAST = 1e-3  # of the largest: what float16's rounding may make of zero


@dataclass(frozen=True, kw_only=True)
class Slope:
    """The mean of p - y over the texts, float64 on the CPU.

    Attributes:
        values: (C,); they sum to zero.
        noise: the standard deviation of what was added to each.
        spread: the standard deviation of each text's share in it about the share 1.
    """

    values: Tensor
    noise: float
    spread: float = 0.0

    def label(self) -> int | None:
        """Return the label of one text: the only one whose slope is negative, if one clearly is."""
        floor = max(SURE * self.noise, LEAST * float(self.values.abs().max()))
        below = (self.values < -floor).nonzero().flatten().tolist()
        others = int((self.values > -floor).sum())  # false of a NaN
        alone = len(below) == 1 and others == len(self.values) - 1
        return below[0] if alone and SURE * self.spread < 1 else None


def tensor_of(observation: Observation, name: str | None) -> Tensor | None:
    """Return the gradient of the parameter ``name``, float64; None where nothing of it is told."""
    tensor = None if name is None else observation.update.tensors.get(name)
    if tensor is None or not tensor.any() or not finite(tensor):
        return None
    return gradient_of(observation, str(name)).cpu().double() * share_of(observation)


def find_slope(observation: Observation, states: Tensor, size: int) -> Slope | None:
    """Return what the update tells of the slope; None where that is nothing.

    Args:
        states: (N, D) what the head reads of some texts.
        size: B, the texts in the update's batch.
    """
    norm, head = observation.model.ending()
    weight = tensor_of(observation, f"{head}.weight")  # (C, D)
    slope = _by_bias(tensor_of(observation, f"{head}.bias"), weight)
    if slope is None:
        bias = None if norm is None else tensor_of(observation, f"{norm}.bias")
        slope = _by_norm(bias, _sent(observation, head))
    if slope is None and weight is not None and size == 1:
        slope = _of_one(weight)
    if slope is None and weight is not None:
        slope = _by_states(weight, states.cpu().double(), _sent(observation, head), size)
    return slope


def _sent(observation: Observation, head: str) -> Tensor:
    """Return the weight of ``head`` that the client had, float64; one that is frozen is public."""
    name = f"{head}.weight"
    sent = observation.broadcast.parameters.get(name)
    sent = observation.model.module.get_parameter(name) if sent is None else sent
    return sent.detach().cpu().double()


def _by_bias(bias: Tensor | None, weight: Tensor | None) -> Slope | None:
    """Return the slope that the head's bias (C,) tells; an entry that was zeroed is minus the rest.

    Noise shows in what should sum to zero: the bias, and each column of the weight.
    """
    if bias is None or int((bias == 0).sum()) > 1:
        return None
    values = torch.where(bias == 0, -bias.sum(), bias)
    sums = values.sum()[None]
    if weight is not None:
        sums = torch.cat([sums, weight[:, (weight != 0).all(dim=0)].sum(dim=0)])
    noise = max(float(sums[:1].abs()), float(sums.square().mean().sqrt())) / len(bias) ** 0.5
    return Slope(values=values, noise=noise)


def _by_norm(bias: Tensor | None, weight: Tensor) -> Slope | None:
    """Return the slope that the last norm's bias (D,) tells, by least squares."""
    if bias is None:
        return None
    sent = bias != 0  # others were zeroed
    maps, wanted = weight[:, sent].T, bias[sent]  # (n, C), (n,)
    rest = len(wanted) - maps.shape[1]
    if rest < maps.shape[1] or torch.linalg.matrix_rank(maps) < maps.shape[1]:
        return None
    values = torch.linalg.lstsq(maps, wanted[:, None]).solution[:, 0]
    error = float((maps @ values - wanted).square().sum() / rest)
    spread = float(torch.linalg.inv(maps.T @ maps).diagonal().max())
    uneven = float(values.sum().abs()) / len(values) ** 0.5
    return Slope(values=values, noise=max((error * spread) ** 0.5, uneven))


def _of_one(weight: Tensor) -> Slope | None:
    """Return one text's slope, but for its scale: the one left singular vector of (C, D).

    Its sign is that with one negative entry, which two labels do not tell.
    """
    whole = weight[:, (weight != 0).all(dim=0)]
    if len(weight) < 3 or not whole.numel():
        return None
    left, values, _ = torch.linalg.svd(whole, full_matrices=False)
    vector = left[:, 0] * -left[:, 0][left[:, 0].abs().argmax()].sign()
    rest = values[1:].square().sum().sqrt() / values[0]
    return Slope(values=vector, noise=max(float(rest), float(vector.sum().abs())))


def _by_states(weight: Tensor, states: Tensor, sent: Tensor, size: int) -> Slope | None:
    """Return the slope that the head's weight tells along what states (N, D) have in common.

    That is their mean, less what the head (C, D) that was sent reads of it: there texts differ by
    label. Of one text, its state is a row's but for sign and size: it must be as near to it as
    those are, or that says nothing of it (a trained model's states of its own texts).
    """
    if not weight.all():
        return None  # entries were zeroed
    basis = torch.linalg.svd(sent - sent.mean(dim=0), full_matrices=False).Vh[: len(sent) - 1]
    common = states.mean(dim=0)
    common = common - basis.T @ (basis @ common)
    shares = states @ common / common.square().sum()  # (N,), about 1
    usual = torch.nn.functional.cosine_similarity(states, common[None], dim=1)
    rows = torch.nn.functional.cosine_similarity(weight, common[None], dim=1).abs()
    if size == 1 and not (rows >= usual.mean() - SURE * usual.std()).all():
        return None
    noise = float(weight.sum(dim=0).square().mean().sqrt() / common.norm()) / len(weight) ** 0.5
    values = weight @ common / common.square().sum()
    return Slope(values=values, noise=noise, spread=float(shares.std()))
