"""What runs and sweeps tell whoever watches; they know this much and no terminal."""

from typing import Protocol

from fedsim.lab.store.sweep import CellEnd


class Display(Protocol):
    """Shows what a run does."""

    @property
    def redact(self) -> bool:
        """Whether texts, and what may quote them, are left out of what it is told."""

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def step(self, line: str) -> None:
        """Show what is being done now; the next step takes its place."""


class SweepDisplay(Display, Protocol):
    """Shows what a sweep does, and what the cell that runs says of itself."""

    def began(self, name: str) -> None:
        """Show that the cell ``name`` has begun."""

    def ended(self, name: str, end: CellEnd) -> None:
        """Show how the cell ``name`` ended."""


class Silent:
    """A display that shows nothing: nobody watches a task on Ray."""

    redact = True

    def say(self, line: str) -> None:
        """Show nothing."""

    def step(self, line: str) -> None:
        """Show nothing."""

    def began(self, name: str) -> None:
        """Show nothing."""

    def ended(self, name: str, end: CellEnd) -> None:
        """Show nothing."""
