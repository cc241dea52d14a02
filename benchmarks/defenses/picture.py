"""The utility-leakage frontier of results/defenses.json, drawn: results/defenses.svg.

python benchmarks/run.py defenses/picture
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common.places import RESULTS

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


def spread(values: list[float], gap: float, low: float, high: float) -> list[float]:
    """Return ascending ``values`` moved as little as need be to stand ``gap`` apart in a range."""
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    found: list[float] = []
    for value in values:
        found.append(max(value, low if not found else found[-1] + gap))
    top = high
    for place in reversed(range(len(found))):
        found[place] = min(found[place], top)
        top = found[place] - gap
    return found


def label(axis: Any, found: list[tuple[str, dict[str, float], float]]) -> None:
    """Write names in a column on either side, each with a line to its point."""
    low, high = axis.get_ylim()
    room = 0.03 * (high - low)
    for side, edge, start in (("right", -0.12, 0.0), ("left", 1.12, 0.5)):
        line = {"arrowstyle": "-", "lw": 0.4, "relpos": (1 if side == "right" else 0, 0.5)}
        group = [one for one in found if (one[1]["mean"] >= 0.5) == (start == 0.5)]
        group.sort(key=lambda one: (one[2], one[1]["mean"]))
        heights = spread([one[2] for one in group], room, low + room, high - room)
        for (name, leak, value), height in zip(group, heights, strict=True):
            axis.annotate(
                name, (leak["mean"], value), xytext=(edge, height), ha=side, va="center",
                fontsize=7, arrowprops=line | {"color": colour(name)},
            )  # fmt: skip


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw one panel for each pair that has points."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fedsim"  # the same file for the same figures
    from matplotlib import pyplot

    panels = {place: found for place in PAIRS if (found := points(record, place))}
    if not panels:
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(7 * len(panels), 5.5), squeeze=False)
    for axis, (place, found) in zip(axes[0], panels.items(), strict=True):
        for name, leak, value in found:
            error = [[leak["mean"] - leak["low"]], [leak["high"] - leak["mean"]]]
            axis.errorbar(leak["mean"], value, xerr=error, fmt="o", color=colour(name), capsize=2)
        axis.set_xlim(-0.55, 1.6)
        axis.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0])
        label(axis, found)
        axis.set_title(f"{place}: FedSGD read by DAGER, FedAvg for utility", fontsize=9)
        axis.set_xlabel("token overlap with the clients' texts (bag F1, 95 %)")
        axis.set_ylabel("accuracy on held-out data after the run")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})
    pyplot.close(figure)


def main() -> None:
    """Draw what there is."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    record = json.loads((RESULTS / "defenses.json").read_text(encoding="utf-8"))
    draw(record, RESULTS / "defenses.svg")


if __name__ == "__main__":
    main()
