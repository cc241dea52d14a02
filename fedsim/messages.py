"""The messages: what travels between server and clients, and what an attack gets and gives.

No message has a field for text: the types are the first lock on the truth. A field that could
carry a string is checked against a short list of allowed words.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor

from fedsim import limits
from fedsim.effects import Effect
from fedsim.errors import MalformedMessage
from fedsim.types import Parameters, Scalar, Tokens

if TYPE_CHECKING:  # transformers takes seconds to import, and a tap on a Flower grid needs none
    from fedsim.models import ModelAdapter

UpdateKind = Literal["gradient", "delta"]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers_only(what: str, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if not isinstance(value, (bool, int, float)):
            raise MalformedMessage(f"{what} {name!r} must be a number, got {type(value).__name__}")


@dataclass(frozen=True, kw_only=True)
class Broadcast:
    """What the server sent to one client: the round's weights and its training config."""

    round: int  # from 1
    parameters: Parameters  # the weights that train; frozen ones are public and do not travel
    config: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one client returned, as it was on the wire: after clipping, noise and compression.

    ``gradient`` is dL/dθ at the broadcast weights; ``delta`` is θ_local - θ_global.
    """

    tensors: Parameters
    kind: UpdateKind
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(UpdateKind):
            allowed = " or ".join(get_args(UpdateKind))
            raise MalformedMessage(f"update kind must be {allowed}, got {self.kind!r}")
        if not isinstance(self.num_examples, int):
            raise MalformedMessage(f"num_examples must be an int, got {self.num_examples!r}")
        if self.num_examples < 0:
            raise MalformedMessage(f"num_examples must be >= 0, got {self.num_examples}")
        for name, tensor in self.tensors.items():
            if not isinstance(tensor, Tensor):
                raise MalformedMessage(f"update {name!r} must be a tensor, got {tensor!r}")
        _numbers_only("metric", self.metrics)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts as token ids, special ones included, and their labels where there are any."""

    sequences: tuple[Tokens, ...]
    labels: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.sequences):
            raise MalformedMessage(
                f"texts need a label each, got {len(self.labels)} for {len(self.sequences)}"
            )
        if not all(tokens and all(map(_is_int, tokens)) for tokens in self.sequences):
            raise MalformedMessage("texts must be token ids, one or more each")
        if not all(label is None or _is_int(label) for label in self.labels):
            raise MalformedMessage("texts' labels must be ints or absent")

    def __len__(self) -> int:
        return len(self.sequences)

    def and_(self, others: "Texts") -> "Texts":
        """Return these texts, then ``others``."""
        return Texts(
            sequences=self.sequences + others.sequences, labels=self.labels + others.labels
        )

    def take(self, rows: Iterable[int]) -> "Texts":
        """Return the texts in ``rows``, in that order."""
        chosen = list(rows)
        return Texts(
            sequences=tuple(self.sequences[row] for row in chosen),
            labels=tuple(self.labels[row] for row in chosen),
        )


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What an attack is granted beyond the protocol; nothing by default, all of it reported."""

    candidates: Texts | None = None  # texts that it is asked about: were they trained on?
    public: Texts | None = None  # texts of the same kind that no client trained on
    labels: tuple[int, ...] | None = None  # one per example, in the client's order
    lengths: tuple[int, ...] | None = None  # tokens per example, special tokens included
    batch_size: int | None = None  # where the protocol does not tell it (secure aggregation)
    defense: tuple[Effect, ...] | None = None  # of those in force, in order; (): there are none

    def __post_init__(self) -> None:
        for name in ("labels", "lengths"):
            wrong = [value for value in getattr(self, name) or () if not _is_int(value)]
            if wrong:
                got = wrong[0] if isinstance(wrong[0], bool | float) else type(wrong[0]).__name__
                raise MalformedMessage(f"knowledge.{name} must be ints, got {got}")
        for name in ("candidates", "public"):
            if not isinstance(given := getattr(self, name), Texts | None):
                raise MalformedMessage(f"knowledge.{name} must be Texts, got {given!r}")
        if not isinstance(self.defense, tuple | None):
            raise MalformedMessage(f"knowledge.defense must be a tuple, got {self.defense!r}")
        for effect in self.defense or ():
            if type(effect) not in get_args(Effect):
                raise MalformedMessage(f"knowledge.defense must be effects, got {effect!r}")
        if self.batch_size is not None and not _is_int(self.batch_size):
            raise MalformedMessage(f"knowledge.batch_size must be int, got {self.batch_size!r}")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return every kind of knowledge that can be granted, in alphabetical order."""
        return tuple(sorted(entry.name for entry in fields(cls)))

    def granted(self) -> dict[str, bool]:
        """Return the kinds that were granted, for the record beside a score."""
        return {name: True for name in self.names() if getattr(self, name) is not None}


@dataclass(frozen=True, kw_only=True)
class Observation:
    """All that an attack sees of one client in one round."""

    model: "ModelAdapter"
    broadcast: Broadcast
    update: Update
    knowledge: Knowledge = field(default_factory=Knowledge)


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """An attack's guess: token ids, and numbers about how it came to them.

    ``sequences`` is empty when nothing was found: a failure never looks like a result. An attack
    that is asked about candidates answers about each, in their order, in place of sequences.
    """

    sequences: tuple[Tokens, ...] = ()
    diagnostics: Mapping[str, bool | int | float] = field(default_factory=dict)
    scores: tuple[float, ...] = ()  # of each candidate: the higher, the likelier a member
    members: tuple[bool, ...] = ()  # which the attack itself takes for members

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.members):
            raise MalformedMessage(
                f"each candidate has a score and an answer, got {len(self.scores)} scores and "
                f"{len(self.members)} answers"
            )
        if not all(isinstance(score, float) and isfinite(score) for score in self.scores):
            raise MalformedMessage("scores must be finite numbers")
        for sequence in self.sequences:
            if not all(isinstance(token, int) for token in sequence):
                raise MalformedMessage(f"a sequence must hold token ids, got {sequence!r}")
        if (total := sum(map(len, self.sequences))) > limits.GUESS:
            raise MalformedMessage(f"a guess has at most {limits.GUESS:,} tokens, got {total:,}")
        _numbers_only("diagnostic", self.diagnostics)
        for name, value in self.diagnostics.items():
            if isinstance(value, int) and abs(value) > limits.INTEGER:
                raise MalformedMessage(f"diagnostic {name!r} must be an integer of 64 bits")
