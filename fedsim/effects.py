"""What a defense does to an update, in words that any attack understands, whoever wrote either.

A defense declares its effects; an attack that is told of them (``Knowledge.defense``) adapts. They
hold numbers alone: what no attack needs to know by name carries no text either.
"""

from dataclasses import dataclass, fields

from fedsim.errors import MalformedMessage


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """An effect, whose fields are its numbers; None: not told."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool | int | float | None):
                raise MalformedMessage(
                    f"effect {type(self).__name__}: {field.name} must be a number, "
                    f"got {type(value).__name__}"
                )
            if value is not None and not value >= 0:  # NaN neither
                raise MalformedMessage(
                    f"effect {type(self).__name__}: {field.name} must be >= 0, got {value}"
                )


@dataclass(frozen=True, kw_only=True)
class Clips(_Numbers):
    """What is above ``norm`` in L2, over all parameters, is scaled down to it."""

    norm: float | None = None
    each: bool = False  # each example's gradient, before they are averaged; False: the update


@dataclass(frozen=True, kw_only=True)
class Noises(_Numbers):
    """Independent noise is added to every entry."""

    multiplier: float | None = None  # its standard deviation over the norm clipped to before it


@dataclass(frozen=True, kw_only=True)
class Rescales(_Numbers):
    """Every entry is divided by the same number."""

    divisor: float | None = None  # > 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divisor == 0:
            raise MalformedMessage("effect Rescales: divisor must be > 0, got 0")


@dataclass(frozen=True, kw_only=True)
class Rounds(_Numbers):
    """Every entry is rounded to few values, small ones perhaps to zero."""

    bits: int | None = None  # an entry takes


@dataclass(frozen=True, kw_only=True)
class Signs(_Numbers):
    """Only signs are left; their size is the same in a whole tensor."""


@dataclass(frozen=True, kw_only=True)
class Truncates(_Numbers):
    """Matrices keep their strongest singular directions alone."""

    rank: int | None = None  # at most so many of them


@dataclass(frozen=True, kw_only=True)
class Zeroes(_Numbers):
    """Entries are set to zero; those that are not are as they were."""

    kept: float | None = None  # the share of entries that are not, in (0, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kept is not None and not 0 < self.kept <= 1:
            raise MalformedMessage(f"effect Zeroes: kept must be in (0, 1], got {self.kept}")


Effect = Clips | Noises | Rescales | Rounds | Signs | Truncates | Zeroes
