"""What an update shows of the inputs of a model's weights: spans, adapters and decay included."""

from collections.abc import Sequence

from torch import Tensor

from attacks.dager import thresholds
from attacks.dager.span import Span, join
from attacks.dager.spectrum import find_span
from attacks.reads import shown_decay
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.models import Place, Projection


def input_span(seen: Observation, layer: int, place: Place = "hidden") -> Span:
    """Return the span of what the weights of ``layer`` that read ``place`` read.

    Raises:
        UnsupportedObservation: the update has none of these weights, nor adapters on them.
    """
    wanted = seen.model.projections(layer, place)
    decay = shown_decay(seen)
    blocks = [block for one in wanted for block in weight_blocks(seen, one, decay)]
    if blocks:
        return find_span(blocks, **ways(seen))
    spans = [span for span in (_up(seen, wanted), _down(seen, wanted)) if span is not None]
    if not spans:
        names = ", ".join(one.name for one in wanted)
        raise UnsupportedObservation(
            f"dager needs the update of at least one of {names}; the update has none of them"
        )
    clear = [span for span in spans if span.rank and not span.saturated]
    return (clear or spans)[0]


def ways(seen: Observation) -> dict[str, bool]:
    """Return how ``find_span`` takes an update of ``seen``'s kind.

    An encoder's search needs what inputs are orthogonal to: as many equations as a gap allows.
    """
    drifting = seen.update.kind == "delta"
    return {"drifting": drifting, "wide": seen.model.causal}


def shows(seen: Observation, layer: int, place: Place) -> bool:
    """Return whether the update holds any weight of ``layer`` that reads ``place``."""
    names = {n for one in seen.model.projections(layer, place) for n in (one.name, *one.adapters)}
    return any(name in seen.update.tensors for name in names)


def weight_blocks(seen: Observation, one: Projection, decay: float) -> list[Tensor]:
    """Return the update of a weight, less ``decay`` times it: (D, K) each, input axis first.

    A fused weight is taken apart, since q, k and v differ in size and so in rounding. [] where the
    update has no such weight.
    """
    update = seen.update.tensors.get(one.name)
    if update is None:
        return []
    update = update.to(seen.model.device)
    if decay:
        sent = seen.broadcast.parameters[one.name].to(update.device)
        update = update.double() - decay * sent.double()
    update = update if one.input_axis == 0 else update.T
    return list(update.chunk(one.fused, dim=1))


def _down(seen: Observation, wanted: Sequence[Projection]) -> Span | None:
    """Return the span by LoRA's A (R, D): it reads the input itself, as far as B has left zero.

    Its gradient's rank is at most B's, which is small for the first steps.
    """
    found = [seen.update.tensors.get(one.adapters[0]) for one in wanted]
    blocks = [one.T.to(seen.model.device) for one in found if one is not None]
    return find_span(blocks, **ways(seen)) if blocks else None


def _up(seen: Observation, wanted: Sequence[Projection]) -> Span | None:
    """Return the span by LoRA's B (K, R): it reads the input through A, and from the start.

    Of q's, k's and v's, one whose noise hides inputs that another shows is left out. An A that does
    not train (FFA-LoRA) never travels: it is public, as all that is frozen.
    """
    spans: list[Span] = []
    maps: list[Tensor] = []
    for one in wanted:
        down, up = one.adapters
        update = seen.update.tensors.get(up)
        if update is not None:
            weight = seen.broadcast.parameters.get(down)
            if weight is None:
                weight = seen.model.module.get_parameter(down).detach()
            blocks = update.T.to(seen.model.device).chunk(one.fused, dim=1)
            spans.append(find_span(blocks, **ways(seen)))
            maps.append(weight.T.to(seen.model.device))
    most = max((span.rank for span in spans), default=0)
    whole = [row for row, span in enumerate(spans) if span.rank >= thresholds.WHOLE_RANK * most]
    return join([spans[row] for row in whole], [maps[row] for row in whole]) if spans else None
