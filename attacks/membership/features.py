"""Each text's own gradient of the maps that an update holds, at given weights, in evaluation mode.

A map's gradient of one text is the sum over its places of what it was told times what it read
(Goodfellow, arXiv:1510.01799), so one backward pass gives those of a whole batch. Sides longer than
``SIDE`` are drawn together by a random orthonormal map, as inner products survive that (Johnson &
Lindenstrauss, 1984).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from attacks.matching import layer_of
from fedsim.messages import Texts
from fedsim.models import ModelAdapter
from fedsim.models.factors import LINEAR, runs_of
from fedsim.types import Parameters

TOKENS_AT_ONCE = 1024
SIDE = 64  # numbers of a side of a full matrix
NARROW = 64  # rank up to which an adapter's matrix is taken as it is

Sketch = tuple[Tensor | None, Tensor | None]  # (O, S), (I, S); None: the side is as it is


@dataclass(frozen=True)
class Site:
    """A linear map whose weight is in the update."""

    name: str  # of its weight
    flipped: bool  # its weight is (I, O)
    sketch: Sketch

    def within(self, module: nn.Module) -> nn.Module:
        """Return the map, in a model."""
        return module.get_submodule(self.name.removesuffix(".weight"))

    def drawn(self, gradient: Tensor) -> Tensor:
        """Return a gradient (O, I), or (..., O, I), as the features have it."""
        left, right = self.sketch
        gradient = gradient.mT if self.flipped else gradient
        gradient = gradient if left is None else left.mT @ gradient
        return gradient if right is None else gradient @ right

    def of(self, read: Tensor, told: Tensor) -> Tensor:
        """Return texts' gradients, (N, S, S'), of what was read, (N, T, I), and told, (N, T, O)."""
        left, right = self.sketch
        told = told if left is None else told @ left
        return told.mT @ (read if right is None else read @ right)


def sites_of(
    model: ModelAdapter, update: Parameters, generator: torch.Generator, half: str = "B"
) -> list[Site]:
    """Return the maps in blocks whose weights are in ``update``; of LoRA, one half's.

    A's gradient is zero while B is. Without LoRA there is no half but all, as "B".
    """
    maps = {
        f"{name}.weight": part
        for name, part in model.module.named_modules()
        if isinstance(part, LINEAR) and f"{name}.weight" in update
    }
    names = [name for name in maps if layer_of(model, name) is not None]
    if any(".lora_" in name for name in names) or half != "B":
        names = [name for name in names if f".lora_{half}." in name]
    sites = []
    for name in names:
        flipped = isinstance(maps[name], Conv1D)
        sites.append(Site(name, flipped, _sketch(update[name].shape, flipped, generator)))
    return sites


def _sketch(shape: torch.Size, flipped: bool, generator: torch.Generator) -> Sketch:
    """Return what draws the sides of a weight of ``shape`` together; nothing of a narrow one."""
    if min(shape) <= NARROW:
        return None, None
    sides: list[Tensor | None] = []
    for size in reversed(shape) if flipped else shape:
        noise = torch.randn(size, min(size, SIDE), generator=generator)
        sides.append(torch.linalg.qr(noise).Q if size > SIDE else None)
    return sides[0], sides[1]


def gradients(
    model: ModelAdapter,
    weights: Parameters,
    texts: Texts,
    sites: Sequence[Site],
    *,
    summed: bool,
    apart: bool = False,
    tell: Callable[[int], None] = lambda _: None,
) -> list[Tensor]:
    """Return, for each of ``sites``, the gradient of each of ``texts``: (N, S, S'), on the CPU.

    Args:
        model: on its device.
        weights: where the gradients are taken.
        texts: as the clients' are encoded.
        sites: of the model.
        summed: the loss is summed over the predicted tokens of a text; else their mean.
        apart: one text at a time, so that none hangs on others, not even in its last bits.
        tell: is told how many texts are done.
    """
    module = model.load(weights).eval()
    made: list[list[Tensor]] = [[] for _ in sites]
    order: list[int] = []
    for rows in [[row] for row in range(len(texts))] if apart else batches(texts):
        parts = _of_batch(model, module, texts.take(rows), sites, summed)
        for kept, part in zip(made, parts, strict=True):
            kept.append(part.cpu())
        order += rows
        tell(len(order))
    back = torch.tensor(order).argsort()
    return [torch.cat(kept)[back] for kept in made]


def _of_batch(
    model: ModelAdapter, module: nn.Module, texts: Texts, sites: Sequence[Site], summed: bool
) -> list[Tensor]:
    loss, runs = watched_loss(model, module, texts, sites, summed=summed)
    outputs = [result for each in runs for _, result in each]
    told = iter(torch.autograd.grad(loss, outputs, allow_unused=True))
    made = []
    for site, each in zip(sites, runs, strict=True):
        parts = []
        for read, result in each:
            slope = next(told)
            slope = torch.zeros_like(result) if slope is None else slope
            parts.append(site.of(places(read.detach(), len(texts)), places(slope, len(texts))))
        made.append(torch.stack(parts).sum(dim=0).float())
    return made


def watched_loss(
    model: ModelAdapter,
    module: nn.Module,
    texts: Texts,
    sites: Sequence[Site],
    *,
    summed: bool = False,
) -> tuple[Tensor, list[list[tuple[Tensor, Tensor]]]]:
    """Return the texts' loss, added up, and what each of ``sites`` read and gave, run by run."""
    batch = model.batch(texts.sequences, texts.labels, torch.Generator().manual_seed(0))
    maps = [site.within(module) for site in sites]
    with torch.enable_grad(), _frozen(module), runs_of(maps) as runs:
        losses = model.losses(module, batch)
        return (losses * model.predicted(batch) if summed else losses).sum(), [
            runs.get(part, []) for part in maps
        ]


def places(tensor: Tensor, texts: int) -> Tensor:
    """Return what a map read or was told, (N, T, D), place by place."""
    return tensor.reshape(texts, -1, tensor.shape[-1])


def batches(texts: Texts) -> list[list[int]]:
    """Return rows of ``texts``, by length: a batch has at most TOKENS_AT_ONCE, padding included."""
    made: list[list[int]] = []
    for row in sorted(range(len(texts)), key=lambda row: len(texts.sequences[row])):
        if not made or len(texts.sequences[row]) * (len(made[-1]) + 1) > TOKENS_AT_ONCE:
            made.append([])
        made[-1].append(row)
    return made


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Have no parameter need a gradient, inside the block: the graph begins at the first site."""
    needing = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in needing:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needing:
            parameter.requires_grad_(True)
