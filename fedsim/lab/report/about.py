"""What each attack says of itself: its paper, what it assumes, what it recovers."""

from collections.abc import Iterable

from attacks import ATTACKS, attack_table
from fedsim.headers import NOT_SAID, header
from fedsim.lab.report.page import Table

COLUMNS = ("source", "assumes", "recovers")
AWAY = "not installed here"


def attack_tables(names: Iterable[str]) -> list[Table]:
    """Return the table of the attacks called ``names``, or none where nothing was attacked.

    An attack that is not installed where the report is written has a row that says so.
    """
    rows = [[name, *_said(name)] for name in dict.fromkeys(names)]
    table = Table(
        name="attacks",
        caption="The attacks, in the words of their own headers",
        columns=["attack", *COLUMNS],
        rows=rows,
        wraps=True,
    )
    return [table] if rows else []


def _said(name: str) -> list[str]:
    plugin = ATTACKS.get(name) or attack_table().get(name)
    if plugin is None:
        return [AWAY] * len(COLUMNS)
    said = header(plugin)
    return [said.get(key, NOT_SAID) for key in COLUMNS]
