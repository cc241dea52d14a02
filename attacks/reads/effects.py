"""What is known of the defenses in force, by their effects: nothing where none was told."""

from typing import TypeVar

from fedsim.effects import Clips, Effect, Noises, Rescales, Rounds, Signs, Zeroes
from fedsim.messages import Observation

Kind = TypeVar("Kind", bound=Effect)


def told(observation: Observation, *kinds: type[Kind]) -> list[Kind]:
    """Return the effects of these ``kinds`` that the attack is told of."""
    return [effect for effect in observation.knowledge.defense or () if isinstance(effect, kinds)]


def share_of(observation: Observation) -> float:
    """Return what undoes the scale that is known: of a random mask, the share that it keeps."""
    share = 1.0
    for effect in told(observation, Rescales):
        if effect.divisor is not None:
            share *= effect.divisor
    return share


def clip_of(observation: Observation) -> float | None:
    """Return the norm that each example's gradient is clipped to, where that is known."""
    for effect in told(observation, Clips):
        if effect.each and effect.norm is not None:
            return effect.norm
    return None


def scale_is_open(observation: Observation) -> bool:
    """Return whether the gradient is known to be scaled, by what is not."""
    unknown = any(effect.divisor is None for effect in told(observation, Rescales))
    return unknown or bool(told(observation, Clips, Signs))


def rows_are_open(observation: Observation) -> bool:
    """Return whether rows are known to be filled or emptied, perhaps: by noise, signs, zeroes."""
    return bool(told(observation, Noises, Rounds, Signs, Zeroes))
