"""What an attack may ask of a model, so that no attack ever says ``if gpt2``."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.models.closing import Closing
from fedsim.models.inside import Inside
from fedsim.models.norms import Norm
from fedsim.types import Parameters, Tokens

AT_ONCE = 2**12  # tokens that are run together


class ModelAdapter(Inside):
    """One model family on ``transformers``: how to build it, train it and look into it."""

    @torch.no_grad()
    def closing(self, parameters: Parameters, sequences: Sequence[Tokens]) -> Closing | None:
        """Return what the last MLP's output map reads of ``sequences``, one after the other.

        None where the family's last norm is not the last thing before the head, or the head is one
        that nobody knows.
        """
        whole = self._whole(parameters)
        norm, head = self._end(whole)
        if norm is None or not self.spec.head_known:
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
                activations.append(caught[inner].flatten(0, -2))
                states.append(caught[norm].flatten(0, -2))
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
        states: dict[int, Tensor] = {}
        logits: dict[int, Tensor] = {}
        caught: list[Tensor] = []
        hook = head.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        try:
            for rows in _alike(sequences):
                ids = torch.tensor([sequences[row] for row in rows], device=self.device)
                logits.update(zip(rows, whole(input_ids=ids).logits, strict=True))
                read = caught.pop()  # (n, D), or (n, T, D) of a head that reads every place
                states.update(
                    zip(rows, read.view(len(rows), -1, read.shape[-1])[:, -1], strict=True)
                )
        finally:
            hook.remove()
        places = range(len(sequences))
        return (
            f"{name}.weight",
            torch.stack([states[row] for row in places]),
            torch.stack([logits[row] for row in places]),
        )

    def ending(self) -> tuple[str | None, str]:
        """Return the names of the last norm, if all that follows it is the head, and of the head.

        Raises:
            ValueError: an encoder's masked-token head, which is more than one map.
        """
        whole: Any = self.module
        norm, head = self._end(whole.get_base_model() if self.spec.lora_rank else whole)
        if head is None:
            raise ValueError(f"{self!r} has no head of one map")
        names = {part: name for name, part in self.module.named_modules()}
        return None if norm is None else names[norm], names[head]

    def _end(self, whole: Any) -> tuple[nn.Module | None, Any]:
        """Return the last norm, if all that follows it is the head, and the head."""
        norm = None if self.last_norm is None else whole.base_model.get_submodule(self.last_norm)
        path, head = self.heads.get(self.spec.task), whole
        if path is None:
            return norm, None
        for name in path.split("."):
            head = getattr(head, name)
            head = getattr(head, "modules_to_save", {"default": head})["default"]  # peft's wrapper
        return norm, head


def _alike(sequences: Sequence[Tokens]) -> Iterator[list[int]]:
    """Yield the places of sequences of one length, so many that they need no padding and fit."""
    by_length: dict[int, list[int]] = {}
    for place, tokens in enumerate(sequences):
        by_length.setdefault(len(tokens), []).append(place)
    for length, places in by_length.items():
        most = max(1, AT_ONCE // max(1, length))
        for first in range(0, len(places), most):
            yield places[first : first + most]
