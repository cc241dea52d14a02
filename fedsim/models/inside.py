"""What a model is like inside: by what its family says, held against a run, or by its graph."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from fedsim.errors import BadInput, UnsupportedObservation
from fedsim.models.batches import Batches
from fedsim.models.graph import (
    Anatomy,
    Assembly,
    GraphTrunk,
    discover,
    embedded,
    find_plan,
    near,
    opened,
    read_by,
    some_tokens,
    stirred,
)
from fedsim.models.opening import Attending, Entrance, Opening
from fedsim.models.spec import Place, Projection
from fedsim.models.trunk import Trunk
from fedsim.types import Parameters

PLACES: tuple[Place, ...] = ("hidden", "context", "middle", "inner")


class Inside(Batches):
    """A model that can be looked into: which weights read what, and what they read."""

    reads: ClassVar[Mapping[Place, tuple[Projection, ...]]]  # a block's weights by what they read
    last_norm: ClassVar[str | None]  # its name in the body; None: more than the head follows it
    _found: Anatomy | None = None
    _plan = Assembly()
    _misfit = ""  # in what the model is not as its family says

    @property
    def anatomy(self) -> Anatomy:
        """What a run of the module told of it."""
        if self._found is None:
            _ = self.module  # once built, it is met
        assert self._found is not None
        return self._found

    @property
    def by_graph(self) -> bool:
        """Whether the module graph tells of it, not its family."""
        _ = self.anatomy  # met by then, and held against its family
        return bool(self._misfit)

    @property
    def mixes(self) -> bool:
        """Whether what block 0's MLP reads depends on other tokens of its sentence."""
        return self.anatomy.mixes

    @override
    def _meet(self, whole: Any) -> None:
        if self._found is None:
            with stirred(whole), torch.no_grad():
                try:
                    found = discover(whole)
                except UnsupportedObservation as error:
                    raise BadInput(f"model.name: {self.spec.name!r}: {error}") from error
                self._misfit = self._compare(whole, found)
                self._plan = find_plan(whole, found) if self._misfit else Assembly()
            self._found = found
            if self._misfit:
                vars(self).update(found.facts(self.spec.task))
        note = self._note()
        if note and note not in self.notes:
            self.notes.append(note)

    def _note(self) -> str:
        """Return what a reader must know of a family that does not fit."""
        if not self._misfit:
            return ""
        return (
            f"the model {self.spec.name!r} is not what the family {self.family} says of it "
            f"({self._misfit}), and is read through its module graph."
        )

    def _compare(self, whole: Any, found: Anatomy) -> str:
        """Return in what the model ``whole`` is not as its family says; "": in nothing."""
        if (self.causal, self.positional) != (found.causal, found.positional):
            return "how its tokens see each other and where they stand"
        for layer, block in enumerate(found.blocks[:2]):
            for place in PLACES:
                names = [f"{self.stack}.{layer}.{read.name}" for read in self.reads[place]]
                read = [read.name for read in block.reads(place)]
                known = all(name.endswith(tuple(names)) for name in read)
                if len(read) != len(names) or not known:
                    return f"which weights of block {layer} read the same"
        head = self.heads.get(self.spec.task)
        if head is not None and (self.last_norm, head) != (found.ends.norm, found.ends.head):
            return "what follows its blocks"
        try:
            return self._computed(whole, found)
        except Exception as error:  # what a family file does with a model that it is not of
            return f"{type(error).__name__} in block 0"

    def _computed(self, whole: Any, found: Anatomy) -> str:
        """Return which of a family's results are not those of the model ``whole``."""
        tokens, parts = some_tokens(whole.config), dict(whole.named_modules())
        places = torch.arange(tokens.shape[1])

        def read(layer: int, place: Place) -> Tensor:
            name = found.blocks[layer].reads(place)[0].name
            return read_by(whole.base_model, parts[name.removesuffix(".weight")], tokens)

        opening = self._open(whole.base_model)
        if not near(opening.inputs(tokens[0], places)[None], read(0, "hidden")):
            return "what block 0 reads"
        if not near(opening.middles(tokens, causal=self.causal), read(0, "middle")):
            return "what the MLP of block 0 reads"
        for depth in range(min(2, len(found.blocks))):
            cut = self._cut(whole.base_model, depth)
            states = cut(input_ids=tokens, position_ids=places[None]).last_hidden_state
            if not near(states, read(depth, "hidden")):
                return f"what block {depth} reads"
        return ""

    def projections(self, layer: int, place: Place = "hidden") -> tuple[Projection, ...]:
        """Return the weights of ``layer`` that read ``place``, which may be none."""
        if self.by_graph:
            base = "base_model.model." if self.spec.lora_rank else ""
            reads = self.anatomy.blocks[layer].reads(place)
        else:
            base, reads = f"{self._path()}{self.stack}.{layer}.", self.reads[place]
        return tuple(replace(read, name=base + read.name) for read in reads)

    def _path(self) -> str:
        """Return what stands before the list of blocks in a parameter's name."""
        return next(
            name[: name.index(f"{self.stack}.0.")]
            for name, _ in self.module.named_parameters()
            if f"{self.stack}.0." in name
        )

    def trunks(self, parameters: Parameters, *depths: int) -> tuple[Trunk, ...]:
        """Return the model's first blocks at the weights ``parameters``, one trunk for each depth.

        They share the workspace, so they work until other weights are loaded.
        """
        for depth in depths:
            if not 0 <= depth < self.layers:
                raise ValueError(f"depth must be in [0, {self.layers}), got {depth}")
        base = self._body(parameters)
        if self.by_graph:
            return tuple(self._until(base, depth, "hidden") for depth in depths)
        return tuple(Trunk(self, self._cut(base, depth)) for depth in depths)

    def middle(self, parameters: Parameters) -> Trunk:
        """Return the model up to the MLP of block 0, at the weights ``parameters``."""
        return self._until(self._body(parameters), 0, "middle")

    def _until(self, base: nn.Module, layer: int, place: Place) -> GraphTrunk:
        name = self.projections(layer, place)[0].name.removesuffix(".weight")
        return GraphTrunk(self, base, self.module.get_submodule(name), self.anatomy)

    @torch.no_grad()
    def entry(self, parameters: Parameters) -> Entrance:
        """Return what block 0 reads of single tokens, at the weights ``parameters``."""
        whole = self._whole(parameters)
        if not self.by_graph:
            return replace(self._open(whole.base_model), lease=self.lease())
        return embedded(whole, self.anatomy, self._plan, self.positions, self.lease())

    @torch.no_grad()
    def opening(self, parameters: Parameters) -> Attending | None:
        """Return block 0 up to its MLP at the weights ``parameters``; None: its parts are unknown.

        It shares the workspace, so it holds until other weights are loaded.
        """
        whole = self._whole(parameters)
        if not self.by_graph:
            return replace(self._open(whole.base_model), lease=self.lease())
        if self._plan.middle is None:
            return None
        return opened(whole, self.anatomy, self._plan, self.positions, self.lease())

    def _whole(self, parameters: Parameters) -> Any:
        """Return the module, free of LoRA's wrapper, at the weights ``parameters``."""
        module: Any = self.load(parameters)
        module.eval()
        return module.get_base_model() if self.spec.lora_rank else module

    def _body(self, parameters: Parameters) -> Any:
        """Return the module without its head, at the weights ``parameters``."""
        return self._whole(parameters).base_model

    @abstractmethod
    def _open(self, base: Any) -> Opening:
        """Return block 0 of ``base`` in the open."""

    @abstractmethod
    def _cut(self, base: nn.Module, depth: int) -> nn.Module:
        """Return ``base`` with ``depth`` blocks and the next block's input norm as its last."""
