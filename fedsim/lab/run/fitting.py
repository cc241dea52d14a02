"""How well a project's arrays fit a model, and what a reader must know of where they do not."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from fedsim.errors import BadInput
from fedsim.models import ModelAdapter, ModelSpec
from fedsim.models.naming import Naming
from fedsim.models.shapes import Shapes
from fedsim.types import Parameters

BLOCK = re.compile(r"\.(\d+)\.")  # in the name of a block's weight
OWN = 8  # arrays of a list that a head of the project's own may have; a block has more
SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """A model, and the arrays that are to be its weights.

    Attributes:
        adapter: the model, all of which trains.
        naming: of the arrays.
        shapes: of the arrays.
        given: what was said of the model.
        moved: the names of arrays that training moved.
        sent: the arrays.
    """

    adapter: ModelAdapter
    naming: Naming
    shapes: Shapes
    given: Mapping[str, Any]
    moved: Collection[str]
    sent: Parameters

    def check(self) -> None:
        """Raise BadInput where the arrays are those of another model."""
        slots = self.naming.ours.values()
        if not any(self._of_body(slot) and BLOCK.search(slot) for slot in slots):
            raise BadInput(self._other("they hold no weight of its blocks"))
        left = self.naming.left
        deeper = not set(map(_kind, left)).isdisjoint(map(_kind, self.naming.ours))
        if len(left) > OWN if self.shapes.listed else deeper:
            raise BadInput(self._other(f"it has no place for {self._few(left)}"))
        known, there = map(_blocks, (slots, dict(self.adapter.module.named_parameters())))
        if known < there and known == set(range(len(known))):
            raise BadInput(self._other(f"they have {len(known)} of its {len(there)} blocks"))

    def _other(self, why: str) -> str:
        model = self.adapter
        return (
            f"model.name: the captures are of another model than {model.spec.name!r} (width "
            f"{model.width}, {model.layers} blocks): of {len(self.shapes.sent)} arrays "
            f"{len(self.naming.ours) or 'none'} fit, and {why}; they look like "
            f"{self.shapes.words()}"
        )

    def spec(self) -> ModelSpec:
        """Return the model's spec, with what does not travel frozen."""
        spec = self.adapter.spec
        if self.naming.lacking:
            spec = replace(spec, freeze=(*spec.freeze, *self.naming.lacking))
        return replace(spec, head_known=False) if self._own_head or self._untied else spec

    def notes(self) -> list[str]:
        """Return what a reader must know."""
        told = []
        if self.naming.how:
            told.append(f"The project's arrays are the model's weights {self.naming.how}.")
        if self._lacks_a:
            told.append(
                "LoRA's A does not travel and is not known, and B's gradient shows the inputs "
                "through it alone: name the project's adapter directory as model.name."
            )
        if head := self._own_head:
            told.append(
                f"The project has a head of its own, in place of {head[0]!r}: what its loss is "
                "nobody knows, so counts of equal texts cannot be told."
            )
        for name, of in self._untied:
            told.append(
                f"{name!r} is no copy of {of!r}, as it is in this model: it is taken for a head of "
                "the project's own, and left out."
            )
        if self.naming.left:
            told.append(f"The model has no place for {self._few(self.naming.left)}: left out.")
        if self._guessed:
            told.append(
                "Which modules have adapters was not said and a list does not tell: taken to be "
                f"{', '.join(self.adapter.spec.lora_targets or self.adapter.attention)} "
                "(model.lora_targets)."
            )
        if self._alpha:
            told.append(
                "model.lora_alpha was not said and is taken to be the rank: with another one the "
                "weights of later rounds are wrong, once adapters count."
            )
        return told

    def misfits(self) -> list[str]:
        """Return in what the model may not be the project's."""
        told = []
        if self._lacks_a:
            told.append("LoRA's A is not known")
        if self._guessed:
            told.append("model.lora_targets was not said")
        if self._alpha:
            told.append("model.lora_alpha was not said")
        lost = [name for name in self.naming.left if name in self.moved and BLOCK.search(name)]
        if lost:
            told.append(f"training moved {self._few(lost)}, which the model has no place for")
        if self.moved and not set(self.moved) & set(self.naming.ours):
            told.append("training moved none of the arrays that are the model's weights")
        return told

    @property
    def _lacks_a(self) -> bool:
        return not self.adapter.spec.adapter and any(".lora_A." in n for n in self.naming.lacking)

    @property
    def _guessed(self) -> bool:
        return bool(self.shapes.listed and self.shapes.rank and "lora_targets" not in self.given)

    @property
    def _alpha(self) -> bool:
        return bool(self.shapes.rank and "lora_alpha" not in self.given)

    @cached_property
    def _own_head(self) -> list[str]:
        return [name for name in self.naming.lacking if not self._of_body(name)]

    @cached_property
    def _untied(self) -> list[tuple[str, str]]:
        """The arrays that should be copies of others, and are none."""
        return [
            (name, of)
            for name, of in self.naming.tied.items()
            if not torch.equal(self.sent[name], self.sent[of])
        ]

    def _of_body(self, name: str) -> bool:
        """Return whether a weight is the body's: no task brings it anew, as it does a pooler."""
        whole: Any = self.adapter.module
        whole = whole.get_base_model() if self.adapter.spec.lora_rank else whole
        return f"{whole.base_model_prefix}." in name and ".pooler." not in name

    @staticmethod
    def _few(names: Sequence[str]) -> str:
        more = f" (and {len(names) - SHOWN} more)" if len(names) > SHOWN else ""
        return ", ".join(map(repr, names[:SHOWN])) + more


def _kind(name: str) -> str:
    """Return a name without the numbers of blocks in it."""
    return re.sub(r"(^|\.)\d+(?=\.)", r"\1#", name)


def _blocks(names: Collection[str]) -> set[int]:
    """Return the numbers of the blocks that names are of."""
    return {int(found[1]) for name in names if (found := BLOCK.search(name))}
