"""What an inspection says, as a test asks for it."""

from fedsim.lab.inspect import Inspection
from fedsim.lab.terminal.inspect import inspection_lines

FILLED = "all of its dimensions"
REASONS = (
    "Adam's steps", "normal noise", "signs alone", "8 bits", "left out", "NaN", "16 bits", FILLED,
)  # fmt: skip


def named_in(found: Inspection) -> list[str]:
    """The reasons that an inspection gives, each capture's the same."""
    assert set(found.hidden.values()) <= {found.looked}
    return [reason for reason in REASONS if any(reason in said for said in found.hidden)]


def shown(found: Inspection) -> str:
    return "\n".join(inspection_lines(found.as_dict()))
