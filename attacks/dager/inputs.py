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


def input_span(observation: Observation, layer: int, place: Place = "hidden") -> Span:
    """Return the span of what the weights of ``layer`` that read ``place`` read.

    Raises:
        UnsupportedObservation: the update has none of these weights, nor adapters on them.
    """
    wanted = observation.model.projections(layer, place)
    decay = shown_decay(observation)
    blocks = [block for weight in wanted for block in weight_blocks(observation, weight, decay)]
    if blocks:
        return find_span(blocks, **ways(observation))
    adapters = (_up(observation, wanted), _down(observation, wanted))
    spans = [span for span in adapters if span is not None]
    if not spans:
        names = ", ".join(projection.name for projection in wanted)
        raise UnsupportedObservation(
            f"dager needs the update of at least one of {names}; the update has none of them"
        )
    clear = [span for span in spans if span.rank and not span.saturated]
    return (clear or spans)[0]


def ways(observation: Observation) -> dict[str, bool]:
    """Return how ``find_span`` takes an update of ``observation``'s kind.

    An encoder's search needs what inputs are orthogonal to: as many equations as a gap allows.
    """
    drifting = observation.update.kind == "delta"
    return {"drifting": drifting, "wide": observation.model.causal}


def shows(observation: Observation, layer: int, place: Place) -> bool:
    """Return whether the update holds any weight of ``layer`` that reads ``place``."""
    projections = observation.model.projections(layer, place)
    names = {name for weight in projections for name in (weight.name, *weight.adapters)}
    return any(name in observation.update.tensors for name in names)


def weight_blocks(observation: Observation, projection: Projection, decay: float) -> list[Tensor]:
    """Return the update of a weight, less ``decay`` times it: (D, K) each, input axis first.

    A fused weight is taken apart, since q, k and v differ in size and so in rounding. [] where the
    update has no such weight.
    """
    update = observation.update.tensors.get(projection.name)
    if update is None:
        return []
    update = update.to(observation.model.device)
    if decay:
        sent = observation.broadcast.parameters[projection.name].to(update.device)
        update = update.double() - decay * sent.double()
    update = update if projection.input_axis == 0 else update.T
    return list(update.chunk(projection.fused, dim=1))


def _down(observation: Observation, wanted: Sequence[Projection]) -> Span | None:
    """Return the span by LoRA's A (R, D): it reads the input itself, as far as B has left zero.

    Its gradient's rank is at most B's, which is small for the first steps.
    """
    tensors = observation.update.tensors
    updates = [tensors.get(projection.adapters[0]) for projection in wanted]
    blocks = [update.T.to(observation.model.device) for update in updates if update is not None]
    return find_span(blocks, **ways(observation)) if blocks else None


def _up(observation: Observation, wanted: Sequence[Projection]) -> Span | None:
    """Return the span by LoRA's B (K, R): it reads the input through A, and from the start.

    Of q's, k's and v's, one whose noise hides inputs that another shows is left out. An A that does
    not train (FFA-LoRA) never travels: it is public, as all that is frozen.
    """
    spans: list[Span] = []
    maps: list[Tensor] = []
    for projection in wanted:
        down, up = projection.adapters
        update = observation.update.tensors.get(up)
        if update is not None:
            weight = observation.broadcast.parameters.get(down)
            if weight is None:
                weight = observation.model.module.get_parameter(down).detach()
            blocks = update.T.to(observation.model.device).chunk(projection.fused, dim=1)
            spans.append(find_span(blocks, **ways(observation)))
            maps.append(weight.T.to(observation.model.device))
    most = max((span.rank for span in spans), default=0)
    # A decoder's q sees none at position 0, where a token attends to itself alone: it must not say
    # what is inside, however few of many inputs these are.
    least = most if observation.model.causal else thresholds.WHOLE_RANK * most
    whole = [row for row, span in enumerate(spans) if span.rank >= least]
    return join([spans[row] for row in whole], [maps[row] for row in whole]) if spans else None
