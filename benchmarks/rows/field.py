"""The table of real Flower projects."""

from collections.abc import Callable, Mapping
from typing import Any

from rows.markdown import Results, table


def projects(results: Results) -> str:
    """What became of each project under the tap, and what was read of it."""
    rows = [
        [name, _ended(cell), _same(cell.get("same_parameters")), _captured(cell),
         _hidden(cell["inspect"]), _read(cell["attack"]), f"`{_verdict(cell['attack'])}`"]
        for name, cell in results.cells("field_projects").items()
    ]  # fmt: skip
    head = ["project", "to its end", "parameters without the tap", "captured",
            "what hides, by `inspect`", "texts read", "verdict"]  # fmt: skip
    return table(head, rows)


def patches(results: Results) -> str:
    """What was changed in each project, and which packages had stand-ins."""
    rows = []
    for name, cell in results.cells("field_projects").items():
        config = ", ".join(f"`{key}`" for key in cell["config"]) or "-"
        rows.append(
            [name, cell["why"] or "-", "; ".join(cell["patches"]), config,
             ", ".join(f"`{name}`" for name in cell["absent"]) or "-"]
        )  # fmt: skip
    head = ["project", "other than as it trains", "patches", "config said", "stand-ins for"]
    return table(head, rows)


def _ended(cell: Mapping[str, Any]) -> str:
    return f"{'yes' if cell['ended'] else 'no'}, {cell['training_seconds']:.0f} s"


def _same(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["same"]:
        return f"the same bits, {found['rounds']} rounds"
    again = found.get("without_tap_twice", {})
    twice = "nor are two runs without it" if not again.get("same") else "two without it are"
    return f"differ by {found['largest_difference']:.0e} at most, {twice}"


def _captured(cell: Mapping[str, Any]) -> str:
    found = cell["captured"]
    text = f"{len(found['rounds'])} rounds, {found['clients']} clients"
    return f"{text}: {'right' if found['right'] else 'WRONG'}"


def _hidden(found: Mapping[str, Any]) -> str:
    hidden = [word.partition(":")[0].partition(", so ")[0] for word in found["hidden"]]
    if found["masked"]:
        hidden.append("masked by secure aggregation")
    if found["filled"]:
        hidden.append(f"all {found['width']} dimensions filled")
    return "; ".join(hidden) or "nothing"


def _read(found: Mapping[str, Any]) -> str:
    if "exact" not in found:
        return "refused"
    text = f"{found['exact']} of {found['samples']}"
    if found["exact_but_last"] > found["exact"]:
        text += f"; {found['exact_but_last']} but for the last token"
    return text


def _verdict(found: Mapping[str, Any]) -> str:
    return str(found.get("verdict", f"exit code {found['exit_code']}"))


TABLES: dict[str, Callable[[Results], str]] = {
    "field_projects": projects,
    "field_patches": patches,
}
