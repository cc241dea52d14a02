"""The base of every attack: what it is shown, what it may return."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from fedsim.errors import BadInput, UnsupportedObservation
from fedsim.finite import finite
from fedsim.messages import Observation, Reconstruction
from fedsim.models import ModelAdapter
from fedsim.types import Kind, Reads

Notes = dict[str, bool | int | float]  # a reconstruction's diagnostics, as they come together
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Reads text off one client's update; its fields are its hyper-parameters and only state."""

    kind: ClassVar[Kind | Literal[""]] = ""  # what it goes by; "": none of those, or not said
    families: ClassVar[tuple[str, ...]] = ()  # the model families it fits; (): every one
    paper_knowledge: ClassVar[tuple[str, ...]] = ()  # what its paper grants it, see Knowledge
    needs: ClassVar[tuple[str, ...]] = ()  # of Knowledge, without which it says nothing
    paths: ClassVar[tuple[str, ...]] = ()  # the fields that may name a file or a directory
    learns_from: ClassVar[tuple[str, ...]] = ()  # of those, the ones that name text like clients'
    needs_loss: ClassVar[bool] = True  # it computes the loss of a text, so it must know the head

    def check(self, model: ModelAdapter) -> None:
        """Raise BadInput, before anything long starts, when the attack does not fit ``model``."""
        if self.families and model.family not in self.families:
            raise BadInput(
                f"attack {type(self).__name__.lower()} fits {' and '.join(self.families)} models, "
                f"but {model.spec.name!r} is a {model.family} model"
            )
        if self.needs_loss and not model.spec.head_known:
            raise BadInput(
                f"attack {type(self).__name__.lower()} computes the client's loss, but the project "
                "has a head of its own, which nobody knows; dager needs none"
            )

    def applies(self, model: ModelAdapter) -> bool:
        """Return whether updates of ``model`` have what it goes by: else its silence is no sign."""
        return True

    def reads(self, model: ModelAdapter) -> Reads:
        """Return what its sequences are, of ``model``: texts, or what is in the batch."""
        return "texts"

    @final
    def reconstruct(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        """Return the guessed token ids of the client's texts.

        The same ``observation`` and generator state give the same guess; the observation comes back
        as it was.

        Raises:
            UnsupportedObservation: the update is malformed, or lacks what the attack needs.
        """
        for name, tensor in observation.update.tensors.items():
            sent = observation.broadcast.parameters.get(name)
            if sent is None:
                raise UnsupportedObservation(f"update holds {name!r}, which was never broadcast")
            if sent.shape != tensor.shape:
                wanted, got = tuple(sent.shape), tuple(tensor.shape)
                raise UnsupportedObservation(f"update {name!r} must have shape {wanted}, got {got}")
            if tensor.dtype not in DTYPES:
                raise UnsupportedObservation(
                    f"update {name!r} must be floats of 16, 32 or 64 bits, got {tensor.dtype}"
                )
            if not finite(tensor):
                raise UnsupportedObservation(f"update {name!r} holds NaN or infinite values")
        versions = _versions(observation)
        with torch.no_grad():
            guess = self._run(observation, generator)
        if _versions(observation) != versions:
            raise AssertionError(f"{self!r} changed what it was shown")
        for sequence in guess.sequences:
            if not all(0 <= token < observation.model.vocabulary for token in sequence):
                raise AssertionError(
                    f"{self!r} guessed ids outside [0, {observation.model.vocabulary})"
                )
        asked = observation.knowledge.candidates
        if guess.scores and len(guess.scores) != len(asked or ()):
            raise AssertionError(f"{self!r} answered about {len(guess.scores)} candidates")
        return guess

    @abstractmethod
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        """Return the guess: the paper's algorithm, in the paper's order and names."""


def _versions(observation: Observation) -> list[int]:
    """Return how often each tensor that an attack is shown was changed in place."""
    shown = [*observation.update.tensors.values(), *observation.broadcast.parameters.values()]
    return [tensor._version for tensor in shown]
