"""LAMP on part of the gradient: some layers, some modules.

Source:      Li, Xu, Dras, "Seeing the Forest through the Trees: Data Leakage from Partial
             Transformer Gradients", EMNLP 2024, arXiv:2406.00999v2, eq. 1.
Assumes:     as LAMP; the update of the parameters that are named.
Recovers:    as LAMP, less as there is less to match.
Deviations:  layers count from 0 (the paper: from 1). Its code's pattern for "p", the FFN's output,
             also caught attention's output "o": here "p" is p alone, and ("o", "p") what it
             measured. GPT-2 holds q, k and v in one matrix, so they go together there.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from typing_extensions import override

from attacks.lamp import Lamp
from attacks.matching import layer_of
from fedsim.errors import BadInput, UnsupportedObservation
from fedsim.messages import Observation
from fedsim.models import ModelAdapter, Place

PLACES: dict[str, tuple[Place, int | None]] = {
    "q": ("hidden", 0),
    "k": ("hidden", 1),
    "v": ("hidden", 2),
    "o": ("context", None),
    "f": ("middle", None),
    "p": ("inner", None),
}
"""Which of a block's weights each name means: what they read, and which of those."""


@dataclass(frozen=True, kw_only=True)
class Partial(Lamp):
    """Match the ``modules`` of the ``layers``; by default everything in every layer."""

    layers: tuple[int, ...] = ()  # from 0; (): every layer
    modules: tuple[str, ...] = ()  # of q, k, v, o, f, p; (): whole layers, biases and norms too

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.modules:
            if name not in PLACES:
                raise ValueError(f"modules must be of {', '.join(PLACES)}, got {name!r}")
        for layer in self.layers:
            if layer < 0:
                raise ValueError(f"layers count from 0, got {layer}")

    @override
    def check(self, model: ModelAdapter) -> None:
        super().check(model)
        sent = model.trainable()
        try:
            missing = [name for name in self._chosen(model, sent) if name not in sent]
        except UnsupportedObservation as reason:
            raise BadInput(f"attack partial: {reason}") from reason
        if missing:
            raise BadInput(f"attack partial: {missing[0]!r} is frozen, so no update holds it")

    @override
    def _names(self, observation: Observation) -> Sequence[str]:
        return self._chosen(observation.model, observation.update.tensors)

    def _chosen(self, model: ModelAdapter, sent: Collection[str]) -> list[str]:
        """Return what is asked for of an update that holds the parameters ``sent``."""
        layers = self.layers or tuple(range(model.layers))
        beyond = [layer for layer in layers if layer >= model.layers]
        if beyond:
            raise UnsupportedObservation(
                f"layers must be in [0, {model.layers}) for {model.spec.name!r}, got {beyond[0]}"
            )
        if self.modules:
            return [name for layer in layers for name in self._module_names(model, sent, layer)]
        names = [name for name in sent if layer_of(model, name) in layers]
        if not names:
            raise UnsupportedObservation(
                f"the update holds nothing of the layers {', '.join(map(str, layers))}: "
                "they are frozen"
            )
        return names

    def _module_names(self, model: ModelAdapter, sent: Collection[str], layer: int) -> list[str]:
        names: dict[str, None] = {}
        for module in self.modules:
            for weight, adapters in _weights(model, layer, module, self.modules):
                both = adapters if all(name in sent for name in adapters) else ()
                names |= dict.fromkeys(both or (weight,))  # a missing one is named by the engine
        return list(names)


def _weights(
    model: ModelAdapter, layer: int, module: str, asked: Sequence[str]
) -> list[tuple[str, tuple[str, str]]]:
    """Return the weights that ``module`` means, each with the LoRA adapters beside it."""
    place, which = PLACES[module]
    weights = model.projections(layer, place)
    if which is not None and len(weights) > 1:
        weights = weights[which : which + 1]
    if which is not None and weights[0].fused > 1 and not {"q", "k", "v"} <= set(asked):
        raise UnsupportedObservation(
            f"{model.spec.name!r} holds q, k and v in one matrix, {weights[0].name!r}: "
            f"modules must name all three or none, got {', '.join(asked)}"
        )
    return [(weight.name, weight.adapters) for weight in weights]
