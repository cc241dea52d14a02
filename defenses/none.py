"""No defense: the update travels as training made it."""

from dataclasses import dataclass

from defenses.base import Defense


@dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """Send the update as it is."""
