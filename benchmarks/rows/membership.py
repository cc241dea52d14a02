"""The tables of membership."""

from collections.abc import Callable

from rows.markdown import Results, table

SHARES = ("auc", "tpr", "fpr", "others_called", "beats_twin")


def rounds(results: Results) -> str:
    """Who was recognised in each setting, with intervals over clients."""
    rows = [
        [
            name,
            cell["of"],
            cell["examples"],
            cell["public"],
            *(_shown(cell.get(key)) for key in SHARES),
            f"{cell['first_seconds']:.0f}, {cell['next_seconds']:.0f}",
        ]
        for name, cell in results.cells("membership_rounds").items()
    ]
    head = ["setting", "clients", "texts each", "public", "AUC", "members called",
            "outsiders called",
            "others' called", "beats its twin", "seconds: first, next"]  # fmt: skip
    return table(head, rows)


def _shown(figure: list[float] | None) -> str:
    if figure is None:
        return "-"
    mean, low, high = figure
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


TABLES: dict[str, Callable[[Results], str]] = {"membership_rounds": rounds}
