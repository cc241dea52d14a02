"""The utility-leakage frontier of results/defenses.json, drawn: results/defenses.svg."""

from pathlib import Path
from typing import Any

PAIRS = {  # what was attacked -> where the same defense was measured for utility
    "gpt2-tiny random, clinic": "gpt2-tiny random, clinic",
    "MiniLM trained, sst2": "MiniLM trained, sst2",
}
GROUPS = {
    "dp-sgd": "tab:green", "gaussian": "tab:olive", "central-dp": "tab:gray", "none": "black",
    "secagg": "tab:purple", "dropout": "tab:brown", "frozen": "tab:orange", "lora": "tab:orange",
    "ffa-lora": "tab:orange", "svd": "tab:cyan", "top": "tab:blue", "mask": "tab:blue",
}  # fmt: skip


def colour(name: str) -> str:
    """Return the colour of a defense: one for each kind; casts and signs are red."""
    return next((c for start, c in GROUPS.items() if name.startswith(start)), "tab:red")


def points(record: dict[str, Any], place: str) -> list[tuple[str, dict[str, float], float]]:
    """Return (defense, token overlap with its interval, utility after) of the cells there are."""
    found = []
    for key, cell in record["cells"].items():
        kind, where, name = key.split(" | ")
        other = record["cells"].get(f"utility | {PAIRS[place]} | {name}")
        usable = kind == "leakage" and where == place and cell.get("leakage")
        if usable and other and other.get("utility"):
            found.append((name, cell["leakage"]["bag_f1"], other["utility"]["after"]))
    return found


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw one panel for each pair that has points."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fedsim"  # the same file for the same figures
    from matplotlib import pyplot

    panels = {place: found for place in PAIRS if (found := points(record, place))}
    if not panels:
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(7 * len(panels), 6), squeeze=False)
    for axis, (place, found) in zip(axes[0], panels.items(), strict=True):
        for row, (name, leak, value) in enumerate(sorted(found, key=lambda one: one[2])):
            error = [[leak["mean"] - leak["low"]], [leak["high"] - leak["mean"]]]
            axis.errorbar(leak["mean"], value, xerr=error, fmt="o", color=colour(name), capsize=2)
            shift = (6, 4 if row % 2 else -10)
            axis.annotate(
                name, (leak["mean"], value), xytext=shift, textcoords="offset points", fontsize=7
            )
        axis.set_title(f"{place}: FedSGD read by DAGER, FedAvg for utility", fontsize=9)
        axis.set_xlabel("token overlap with the clients' texts (bag F1, 95 %)")
        axis.set_ylabel("accuracy on held-out data after the run")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
