"""Tables of what defenses leave, cost and guarantee."""

from collections.abc import Callable
from typing import Any

from rows.markdown import Cell, Results, span, table

TINY = "gpt2-tiny random, "
DATA = ("sst2", "cola", "clinic")
LAST = "exact_match_but_last"


def _figures(cell: Cell | None) -> str:
    """Return how much was read exactly, and the tokens' overlap; a verdict that is open is said."""
    if cell is None:
        return "-"
    leak = cell["leakage"]
    figures = f"{leak['exact_match']['mean']:.2f}, {leak['bag_f1']['mean']:.2f}"
    if LAST in leak:
        figures += f" (but the last token {leak[LAST]['mean']:.2f} exactly)"
    return figures + _open(cell)


def _open(cell: Cell) -> str:
    return " (inconclusive)" if cell["verdict"]["verdict"] == "inconclusive" else ""


def _overlap(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    bag = cell["leakage"]["bag_f1"]
    return f"{bag['mean']:.2f} ({bag['low']:.2f} to {bag['high']:.2f}){_open(cell)}"


def _epsilon(epsilon: float | None) -> str:
    if epsilon is None:
        return "none"
    return f"{epsilon:,.0f}" if epsilon > 1000 else f"{epsilon:.3g}"


def defenses(results: Results) -> str:
    """Every defense against DAGER and LAMP, on the tiny GPT-2."""
    cells = results.cells("defenses")
    names = [n.split(" | ")[2] for n in cells if n.startswith(f"leakage | {TINY}sst2 | ")]
    rows: list[list[Any]] = []
    for name in names:
        leaks = [
            cells.get(f"leakage | {TINY}{data} | {name}") for data in ("sst2", "cola", "clinic")
        ]
        cost = cells.get(f"utility | {TINY}clinic | {name}")
        sent = cost or leaks[0] or {}
        promised = (cost or {}).get("guarantee")
        rows.append(
            [
                name, *map(_figures, leaks), _overlap(cells.get(f"matching | {TINY}sst2 | {name}")),
                f"{cost['utility']['after']:.2f}" if cost else "-",
                f"{sent['wire']['bits_per_entry']:.3g}",
                _epsilon(promised["epsilon"] if promised else None),
            ]
        )  # fmt: skip
    head = ["defense", "DAGER, SST-2: exact, overlap", "CoLA", "clinic", "LAMP, SST-2: overlap",
            "accuracy, clinic", "bits an entry", "epsilon"]  # fmt: skip
    return table(head, rows)


def wide(results: Results) -> str:
    """Wider models."""
    rows = []
    for name, cell in results.cells("defenses").items():
        kind, model, defense = name.split(" | ")
        if kind == "leakage" and not model.startswith("gpt2-tiny"):
            cost = results.cells("defenses").get(f"utility | {model} | {defense}")
            rows.append([model, defense, cell["samples"], _figures(cell),
                         cell["verdict"]["verdict"],
                         f"{cost['utility']['after']:.2f}" if cost else "-"])  # fmt: skip
    head = ["model, data", "defense", "sentences", "exact, overlap", "verdict", "accuracy"]
    return table(head, rows)


def canaries(results: Results) -> str:
    """Claims of dp-sgd, bounded from below."""
    rows = []
    for name, cell in results.cells("dp_claims").items():
        if name.startswith("canaries"):
            rows.append(
                [
                    name.split("= ")[1], f"{cell['mu_hat_times_z']:.3f}",
                    f"{cell['claimed']['epsilon']:.3g}",
                    f"{cell['bound']['epsilon']:.2f} ({cell['bound']['cap']:.2f})",
                    f"{cell['epsilon_estimate']:.3g}, {cell['epsilon_low']:.3g}",
                ]
            )  # fmt: skip
    head = ["z", "mu x z (true: 1)", "claimed epsilon", "one-run bound (its cap)",
            "Gaussian estimate, and from below"]  # fmt: skip
    return table(head, rows)


def recovery(results: Results) -> str:
    """What DAGER reads under dp-sgd, beside the bound."""
    rows = []
    for name, cell in results.cells("dp_claims").items():
        if name.startswith("dager"):
            read, promised = cell["exact_match"], cell["guarantee"]
            epsilon = promised["epsilon"] if promised else None
            rows.append(
                [
                    name.split("z = ")[1], _epsilon(epsilon),
                    f"{read['mean']:.2f} ({read['low']:.2f} to {read['high']:.2f})",
                    span(cell["bounds"], 2), f"`{cell['verdict']['verdict']}`",
                    cell["verdict"]["samples"],
                ]
            )  # fmt: skip
    return table(["z", "epsilon", "read exactly (95 %)", "bound", "verdict", "sentences"], rows)


def noise(results: Results) -> str:
    """The noise on the wire, over what was promised."""
    cells = results.cells("dp_claims")["noise on the wire over z C / B"]
    return table(["model", "noise over z C / B"], [[k, f"{v:.4f}"] for k, v in cells.items()])


def cost(results: Results) -> str:
    """What dp-sgd costs a client's round."""
    rows = []
    for name, cell in results.cells("dp_claims")["cost of a client's round"].items():
        memory = cell["more_memory_mb"]
        rows.append([name, f"{cell['ratio']:.2f}", f"{memory['plain']:.0f}",
                     f"{memory['dp-sgd']:.0f}"])  # fmt: skip
    head = ["task, batch", "times a plain round's processor time", "MB beyond the model: plain",
            "`dp-sgd`"]  # fmt: skip
    return table(head, rows)


def accountants(results: Results) -> str:
    """Both accountants beside Google's."""
    rows = [
        [" + ".join(f"{steps:g} × (z {z:g}, rate {rate:g})" for z, rate, steps in row["history"]),
         row["participation"], f"{row['prv']:.4g}", f"{row['pld']:.4g}", f"{row['rdp']:.4g}",
         f"{row['rdp_google']:.4g}"]
        for row in results.cells("dp_claims")["accountants"]["rows"]
    ]  # fmt: skip
    head = ["steps", "participation", "PRV", "Google's PLD", "RDP", "Google's RDP"]
    return table(head, rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "defenses_all": defenses,
    "defenses_wide": wide,
    "dp_canaries": canaries,
    "dp_recovery": recovery,
    "dp_noise": noise,
    "dp_cost": cost,
    "dp_accountants": accountants,
}
