"""How many inputs of block 0 an update shows: as dager would find them, without a model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from attacks.dager.spectrum import find_span, most_inputs
from fedsim.captures import Captured
from fedsim.lab.inspect.parts import DagerParts
from fedsim.lab.run.filling import directions
from fedsim.lab.run.looks import Looks, without_decay
from fedsim.lab.run.rounding import written
from fedsim.models.shapes import Shapes
from fedsim.types import Parameters


@dataclass(frozen=True, kw_only=True)
class InputsShown:
    """What block 0's attention reads, as an update shows it: one of the last three, or clear.

    Attributes:
        rank: in how many dimensions it stands out.
        filled: those are all.
        crowded: they are not, and still too many to tell from what noise fills.
        blurred: nothing parts them from noise, so that there may be more.
    """

    rank: int
    filled: bool = False
    crowded: bool = False
    blurred: bool = False


def shown_inputs(
    captured: Captured, shapes: Shapes, parts: DagerParts, looks: Looks
) -> InputsShown | None:
    """Return what an update shows of block 0's inputs; None: no array is known to read them.

    Of adapters, by the one that shows most: each B reads through another A.
    """
    update, sent = captured.update, captured.broadcast.parameters
    if not looks.finite:
        return None
    named = {name: update.tensors[name] for name in shapes.sent if name in update.tensors}
    clean = without_decay(named, sent, update.kind)
    names = (_adapters if shapes.rank else _maps)(named, shapes, parts)
    moved = [
        (clean[name], written(sent.get(name), named[name], update.kind))
        for name in names
        if named[name].any()
    ]
    if not shapes.rank:
        return _by_maps(moved, shapes.width) if moved else None
    shown = [_by_adapter(tensor, rounded, shapes.width) for tensor, rounded in moved]
    return max(shown, key=lambda one: one.rank, default=None)


def _by_adapter(moved: Tensor, rounded: Tensor, width: int) -> InputsShown:
    """Return what B (K, R) shows, which reads the inputs through A from the first step on.

    With nearly as many inputs as dimensions a spectrum has no noise to go by. Rounding tells.
    """
    whole = moved.shape[1]
    count = directions(moved, rounded) if len(moved) >= whole > 1 else 0
    if count == whole:
        return InputsShown(rank=count, filled=True)
    if count > most_inputs(whole):
        return InputsShown(rank=count, crowded=True)
    span = find_span(moved.T.chunk(3 if len(moved) == 3 * width else 1, dim=1))
    if span.blurred:
        return InputsShown(rank=max(count, min(span.rank, most_inputs(whole))), blurred=True)
    return InputsShown(rank=span.rank)


def _by_maps(moved: Sequence[tuple[Tensor, Tensor]], width: int) -> InputsShown:
    """Return what queries, keys and values show together, each with the numbers rounded."""
    span = find_span([part for tensor, _ in moved for part in _input_first(tensor, width)])
    if span.saturated:  # by inputs, or by rounding, if that is coarse
        count = max(directions(tensor, rounded) for tensor, rounded in moved)
        if count > most_inputs(width):
            return InputsShown(rank=count, filled=count == width, crowded=count < width)
    return InputsShown(rank=span.rank, blurred=span.blurred)


def _adapters(tensors: Parameters, shapes: Shapes, parts: DagerParts) -> Sequence[str]:
    """Return the names of the B's that dager would look at; of a list, of the first."""
    ups = [
        name
        for name, tensor in tensors.items()
        if tensor.dim() == 2 and tensor.shape[1] == shapes.rank and shapes.is_up(name)
    ]
    return ups[:1] if shapes.listed else [name for name in ups if name in parts.readers]


def _maps(tensors: Parameters, shapes: Shapes, parts: DagerParts) -> Sequence[str]:
    """Return the names of block 0's queries, keys and values, in whole."""
    width = shapes.width
    fits = [
        name
        for name, tensor in tensors.items()
        if tensor.dim() == 2 and width in tensor.shape and max(tensor.shape) <= 4 * width
    ]
    if shapes.listed:  # blocks repeat, and embeddings do not
        often = Counter(tuple(tensors[name].shape) for name in fits)
        fits = [name for name in fits if often[tuple(tensors[name].shape)] > 1]
        return fits[: 1 if fits and max(tensors[fits[0]].shape) == 3 * width else 3]
    return [name for name in fits if name in parts.readers]


def _input_first(matrix: Tensor, width: int) -> list[Tensor]:
    """Return a map with its input axis first; queries, keys and values in one are taken apart."""
    turned = matrix.T if matrix.shape[1] == width else matrix  # a square one is torch's Linear
    return list(turned.chunk(3, dim=1)) if turned.shape[1] == 3 * width else [turned]
