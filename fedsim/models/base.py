"""What an attack may ask of a model, so that no attack ever says ``if gpt2``."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedsim.models.batches import Batches
from fedsim.models.closing import Closing
from fedsim.models.norms import Norm
from fedsim.models.opening import Opening
from fedsim.models.spec import Place, Projection
from fedsim.models.trunk import Trunk
from fedsim.types import Parameters, Tokens


class ModelAdapter(Batches):
    """One model family on ``transformers``: how to build it, train it and look into it."""

    reads: ClassVar[Mapping[Place, tuple[Projection, ...]]]  # a block's weights by what they read
    last_norm: ClassVar[str | None]  # its name in the body; None: more than the head follows it

    def projections(self, layer: int, place: Place = "hidden") -> tuple[Projection, ...]:
        """Return the weights of ``layer`` that read ``place``: by default its q, k and v."""
        base = f"{self._path()}{self.stack}.{layer}."
        return tuple(replace(read, name=base + read.name) for read in self.reads[place])

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
        return tuple(Trunk(self, self._cut(base, depth)) for depth in depths)

    @torch.no_grad()
    def opening(self, parameters: Parameters) -> Opening:
        """Return block 0 up to its MLP at the weights ``parameters``.

        It shares the workspace, so it holds until other weights are loaded.
        """
        return replace(self._open(self._body(parameters)), lease=self.lease())

    @torch.no_grad()
    def closing(self, parameters: Parameters, sequences: Sequence[Tokens]) -> Closing | None:
        """Return what the last MLP's output map reads of ``sequences``, one after the other.

        None where the family's last norm is not the last thing before the head.
        """
        whole = self._whole(parameters)
        norm, head = self._end(whole)
        if norm is None:
            return None
        name = self.projections(self.layers - 1, "inner")[0].name.removesuffix(".weight")
        inner = self.module.get_submodule(name)
        caught: dict[nn.Module, Tensor] = {}
        hooks = [
            module.register_forward_pre_hook(lambda part, given: caught.update({part: given[0]}))
            for module in (inner, norm)
        ]
        activations, states = [], []
        try:
            for tokens in sequences:
                whole.base_model(input_ids=torch.tensor([tokens], device=self.device))
                activations.append(caught[inner][0])
                states.append(caught[norm][0])
        finally:
            for hook in hooks:
                hook.remove()
        return Closing(
            activations=torch.cat(activations),
            states=torch.cat(states),
            norm=Norm.of(norm),
            head=head.weight.detach(),
            lease=self.lease(),
        )

    @torch.no_grad()
    def decisions(
        self, parameters: Parameters, sequences: Sequence[Tokens]
    ) -> tuple[str, Tensor, Tensor]:
        """Return the name of a classifier's head weight, and what it reads and says of sequences.

        Returns:
            The name, the states (N, D) that the head reads, and the logits (N, K).
        """
        whole = self._whole(parameters)
        name = self.ending()[1]
        head = self.module.get_submodule(name)
        states, logits = [], []
        hook = head.register_forward_pre_hook(
            lambda _, given: states.append(given[0].flatten(0, -2)[-1])
        )
        try:
            for tokens in sequences:
                logits.append(whole(input_ids=torch.tensor([tokens], device=self.device)).logits[0])
        finally:
            hook.remove()
        return f"{name}.weight", torch.stack(states), torch.stack(logits)

    def ending(self) -> tuple[str | None, str]:
        """Return the names of the last norm, if all that follows it is the head, and of the head.

        Raises:
            ValueError: an encoder's masked-token head, which is more than one map.
        """
        whole: Any = self.module
        norm, head = self._end(whole.get_base_model() if self.spec.lora_rank else whole)
        if head is None:
            raise ValueError(f"{self!r} has no head of one map")
        head = getattr(head, "modules_to_save", {"default": head})["default"]  # peft's wrapper
        names = {part: name for name, part in self.module.named_modules()}
        return None if norm is None else names[norm], names[head]

    def _end(self, whole: Any) -> tuple[nn.Module | None, Any]:
        """Return the last norm, if all that follows it is the head, and the head."""
        head = self.heads.get(self.spec.task)
        norm = None if self.last_norm is None else whole.base_model.get_submodule(self.last_norm)
        return norm, None if head is None else getattr(whole, head)

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
