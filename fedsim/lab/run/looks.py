"""What an update's values tell of how it was made, without a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor

from attacks.dager.spectrum import find_span
from attacks.reads import decay_of
from fedsim.captures import Captured
from fedsim.finite import all_finite
from fedsim.lab.run.filling import filled
from fedsim.lab.run.rounding import is_short, written
from fedsim.models import ModelAdapter
from fedsim.models.shapes import UP
from fedsim.types import Parameters

LEAST = 512  # entries of a matrix from which on its values tell something
ADAM = 4.0
"""Kurtosis below which a delta of whole weights looks like Adam's, which moves all entries alike.

From: lab_signs.json, CoLA (AdamW 1.0 to 2.9, SGD and momentum from 6.9); SST-2 had no part in it.
"""
ADAM_ROWS = 0.4
"""Spread of the rows of LoRA's B below which they do: Adam moves all outputs alike, too.

From: the same (AdamW to 0.25, SGD and momentum from 0.6). Kurtosis tells nothing of adapters: B's
gradient is of random projections of the inputs, so it is normal, or as rounding leaves it.
"""
FEW_ROWS = 8  # of a B below which their spread tells nothing: a head's two are opposites
SPREAD = 24.0  # over n: the variance of the kurtosis of n draws of a normal distribution
NORMAL = 0.8  # share of matrices, within four deviations of its 3, from which on all is noise
SPARSE = 0.5  # share of zeros from which on most of an update was left out
TALL = 4  # times as many rows as columns, from which on a matrix is no block's
VALUES = 257  # distinct values of a matrix that 8 bits can tell apart, and zero


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What the values of an update look like.

    Attributes:
        kurtosis: the median over matrices; 1 where all entries are of one size, 3 of normal ones.
        normal: the share of matrices whose kurtosis is that of normal draws.
        zeros: the median share of entries that are zero.
        values: the median number of distinct sizes of entries.
        finite: whether all entries are numbers.
        rows: how much the norms of the rows of LoRA's B (K, R) differ, the deviation over the
            mean: the median over adapters; None: none was moved.
        filled: whether all dimensions of LoRA's B's in block 0 were moved.
        short: whether 16 bits hold all weights after a delta, or all of a gradient.
    """

    kurtosis: float
    normal: float
    zeros: float
    values: float
    finite: bool
    rows: float | None = None
    filled: bool = False
    short: bool = False

    @property
    def noise(self) -> bool:
        """Whether it looks like noise alone, or like what noise has buried; not told of LoRA."""
        return self.finite and self.rows is None and self.normal > NORMAL

    @property
    def even(self) -> bool:
        """Whether the rows of LoRA's B are of much the same size, as Adam's steps or noise are."""
        return self.rows is not None and self.rows < ADAM_ROWS

    @property
    def sparse(self) -> bool:
        """Whether most entries are zero."""
        return self.zeros > SPARSE

    @property
    def _alike(self) -> bool:
        return 0 < self.kurtosis < ADAM and not self.noise and self.values > 1

    def adam(self, kind: str) -> bool:
        """Return whether it looks like some steps of Adam, or of LoRA like noise."""
        if kind != "delta" or not self.finite:
            return False
        if self.rows is not None:
            return self.even
        if self.sparse:  # what is left of entries, or not lost to rounding, is of one size, too
            return False
        if self.short:  # rounding leaves a few sizes of any steps
            return False
        return self._alike

    def words(self, kind: str, *, blurred: bool = False) -> list[str]:
        """Return what hides texts in it, in words; [] where nothing shows.

        Args:
            kind: of the update.
            blurred: nothing parts what block 0 reads from noise.
        """
        if not self.finite:
            return ["the update holds NaN or infinite values"]
        told = []
        if self.short and blurred and not self.sparse:
            told.append(
                f"the {'weights' if kind == 'delta' else 'numbers'} have 16 bits: inputs that "
                "change them by less than rounding does are lost"
            )
        if self.sparse and self.short and kind == "delta":
            told.append(
                "most of a matrix did not move: its weights have 16 bits, which lose small steps, "
                "or most was left out (top-k, a mask)"
            )
        elif self.sparse:
            told.append("most of a matrix is zero: most was left out (top-k, a mask)")
        if self.even and kind == "delta":
            told.append(
                "the rows of LoRA's B are of much the same size, as Adam's steps are (or noise "
                "is): it is no sum of gradients, so dager and matching attacks read nothing"
            )
        elif self.even:
            told.append("the rows of LoRA's B are of much the same size, as noise's are")
        elif self.adam(kind):
            told.append(
                "the update's entries are of much the same size, as Adam's steps are: it is no sum "
                "of gradients, so dager and matching attacks read nothing"
            )
        elif kind == "delta" and self.rows is None and self._alike and not self.sparse:
            told.append(
                "the update's entries are of much the same size: as Adam's steps are, of which "
                "dager and matching attacks read nothing, or as rounding to 16 bits leaves any"
            )
        elif self.noise:
            told.append(
                "the update's entries are distributed as normal noise is: noise was added (DP-SGD, "
                "or what else adds it), and is louder than the gradients"
            )
        elif self.values <= 1:
            told.append("all entries of a matrix are of one size: signs alone were sent")
        elif self.values <= VALUES and not (self.short and kind == "delta"):
            told.append("a matrix has no more sizes of entries than 8 bits: it was quantised")
        elif self.filled and not self.sparse:
            told.append(
                "LoRA's B was moved in all of its dimensions: by more inputs than its rank, or by "
                "what fills them as well (noise, weight decay), so dager may tell none apart"
            )
        return told


def looks_of(tensors: Parameters, sent: Parameters | None = None, kind: str = "gradient") -> Looks:
    """Return what the matrices of an update's blocks look like; embeddings are mostly untouched.

    Of LoRA its B's alone: what A moves by is often less than float32 keeps of A. Of whole weights
    what decay added is taken off first, as attacks do.

    Args:
        tensors: the update.
        sent: the weights before it, where they are known: they tell what rounding is.
        kind: of the update.
    """
    finite = all_finite(tensors.values())
    some = _matrices(without_decay(tensors, sent or {}, kind)) if finite else []
    if not some:
        none = float(VALUES + 1)
        return Looks(kurtosis=0.0, normal=0.0, zeros=0.0, values=none, finite=finite)
    tails = [_kurtosis(matrix) for matrix in some]
    return Looks(
        kurtosis=median(tails),
        normal=fmean(
            abs(tail - 3) < 4 * (SPREAD / int(matrix.count_nonzero())) ** 0.5
            for tail, matrix in zip(tails, some, strict=True)
        ),
        zeros=median(float((matrix == 0).double().mean()) for matrix in some),
        values=median(_sizes(matrix) for matrix in some),
        finite=True,
        rows=_spread(tensors),
        filled=sent is not None and filled(tensors, sent, kind),
        short=sent is not None and _are_short(tensors, sent, kind),
    )


def astray(sent: Parameters) -> list[str]:
    """Return in words whether no model computes with the weights that were sent; [] where one does.

    An update of such values tells what any other does: what is read of it is of no size.
    """
    if all_finite(t.float() for t in sent.values() if t.is_floating_point()):
        return []
    return [
        "the weights that were sent hold NaN, or values beyond float32: the training went astray, "
        "and no attack has a model to hold texts to"
    ]


def without_decay(update: Parameters, sent: Parameters, kind: str) -> Parameters:
    """Return a delta without what weight decay added, by the rows that no text touched.

    Those are of embeddings: of the matrices that are far too tall for a block's. What is zero
    stays: a defense may have left it out.
    """
    if kind != "delta":
        return update
    known = {name for name, t in update.items() if name in sent and sent[name].shape == t.shape}
    share = decay_of(
        (tensor, sent[name])
        for name, tensor in update.items()
        if name in known and UP not in name and tensor.dim() == 2
        if tensor.shape[0] > TALL * tensor.shape[1]
    )
    if not share:
        return update
    return {
        name: (t.double() - share * sent[name].double()) * (t != 0) if name in known else t
        for name, t in update.items()
    }


def hiding(captured: Captured, adapter: ModelAdapter) -> list[str]:
    """Return what hides texts in a capture: by its looks, and by what is said of its training."""
    update, sent = captured.update, captured.broadcast
    looks = looks_of(update.tensors, sent.parameters, update.kind)
    blurred = looks.short and looks.finite and _blurred(update.tensors, adapter)
    told = [*astray(sent.parameters), *looks.words(update.kind, blurred=blurred)]
    if sent.config.get("dropout") is True and _drops(adapter):
        told.append(
            "dropout was on in training, which no update shows: dager holds texts to a model that "
            "drops nothing, so it reads none"
        )
    return told


def _blurred(tensors: Parameters, adapter: ModelAdapter) -> bool:
    """Return whether nothing parts what block 0's attention reads from noise, in what shows it."""
    blocks: list[Tensor] = []
    for part in adapter.projections(0, "hidden"):
        name, axis = (
            (part.adapters[1], 1) if adapter.spec.lora_rank else (part.name, part.input_axis)
        )
        if name in tensors:
            turned = tensors[name] if axis == 0 else tensors[name].T
            blocks += turned.chunk(part.fused, dim=1)
    return any(block.any() for block in blocks) and find_span(blocks).blurred


def _drops(adapter: ModelAdapter) -> bool:
    """Return whether a model drops anything where dropout is on."""
    spec, config = adapter.spec, adapter.config
    own = [getattr(config, name, 0.0) for name in adapter.dropouts]
    rates = own if spec.dropout is None else [spec.dropout for _ in own]
    return any(rates) or (spec.lora_rank > 0 and spec.lora_dropout > 0)


def _spread(tensors: Parameters) -> float | None:
    ups = [_scaled(tensor).double() for name, tensor in tensors.items() if UP in name]
    tall = [tensor for tensor in ups if tensor.dim() == 2 and len(tensor) >= FEW_ROWS]
    norms = [tensor.norm(dim=1) for tensor in tall if tensor.any()]
    return median(float(norm.std() / norm.mean()) for norm in norms) if norms else None


def _matrices(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    some = {name: t for name, t in tensors.items() if t.dim() == 2 and t.numel() >= LEAST}
    tallest = max((len(t) for t in some.values()), default=0)
    ups = {name: tensor for name, tensor in some.items() if UP in name}
    found = [_scaled(tensor) for tensor in (ups or some).values()]
    blocks = [t for t in found if t.shape[0] < tallest or t.shape[0] <= 8 * t.shape[1]]
    return [t for t in blocks if t.any()] or [t for t in found if t.any()]


def _scaled(tensor: Tensor) -> Tensor:
    """Return it in float32, up to a factor: float64 has numbers that float32 has not."""
    values = tensor.detach()
    if values.dtype == torch.float64 and values.numel():
        values = values / values.abs().max().clamp_min(1e-300)
    return values.float()


def _kurtosis(matrix: Tensor) -> float:
    """Return the fourth moment over the square of the second, of the entries that moved."""
    values = matrix[matrix != 0].double()
    values = values / values.abs().max()
    return float((values**4).mean() / (values**2).mean() ** 2)


def _are_short(tensors: Parameters, sent: Parameters, kind: str) -> bool:
    """Return whether 16 bits hold all of what was rounded of the matrices."""
    moved = {name: t for name, t in tensors.items() if t.dim() == 2 and name in sent and t.any()}
    return bool(moved) and all(is_short(written(sent[k], t, kind)) for k, t in moved.items())


def _sizes(matrix: Tensor) -> int:
    return int(torch.unique(matrix[matrix != 0].abs().flatten()[: 512 * LEAST]).numel())
