"""Tables of what gradient matching reads."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from rows.markdown import Cell, Results, interval, span, table

OFF, ON = "dropout off", "dropout on, embeddings frozen"
# cells of matching_order.json in the order of the page: what the client does, the attack, the cell
ONE = (
    (OFF, "`lamp`, its own settings (no prior)", "cola B=1 lamp"),
    (OFF, "the same with a weak prior, relative", "cola B=1 lamp+prior"),
    (OFF, "the same, counted as in the paper", "cola B=1 paper's lamp+prior"),
    (OFF, "`tag`, its own settings", "cola B=1 2,500 steps of tag"),
    (OFF, "`tag`, 400 steps for 2,500", "cola B=1 tag"),
    (OFF, "`dlg`, its own settings", "cola B=1 2,500 steps of dlg"),
    (OFF, "`dlg`, 300 steps for 2,500", "cola B=1 dlg"),
    (OFF, "`grab`, its paper's distance, 2 × 250 steps", "cola B=1 grab"),
    (ON, "`grab`, cosine distance, 2 × 400 steps for 5 × 2,000", "practical cola B=1 grab, cosine"),
    (ON, "the same, masks not learnt", "practical cola B=1 grab, cosine, masks not learnt"),
    (ON, "`grab`, its own settings", "practical cola B=1 5 x 2,000 steps of grab"),
    (ON, "`grab`, its paper's distance, 2 × 250 steps", "practical cola B=1 grab"),
    (ON, "`lamp`, 600 steps", "practical cola B=1 lamp"),
    (ON, "`lamp`, its own settings", "practical cola B=1 2,000 steps of lamp"),
)
TWO = (
    (OFF, "`lamp`, its own settings (no prior)", "cola B=2 lamp"),
    (OFF, "`grab`, its paper's distance, 2 × 250 steps", "cola B=2 grab"),
    (OFF, "`tag`, 400 steps for 2,500", "cola B=2 tag"),
    (OFF, "`dlg`, its own settings", "cola B=2 2,500 steps of dlg"),
    (OFF, "`dlg`, 300 steps for 2,500", "cola B=2 dlg"),
    (ON, "`grab`, cosine distance, 2 × 400 steps", "practical cola B=2 grab, cosine"),
    (ON, "`grab`, its paper's distance, 2 × 250 steps", "practical cola B=2 grab"),
    (ON, "`grab`, cosine distance, masks not learnt",
     "practical cola B=2 grab, cosine, masks not learnt"),
    (ON, "`lamp`, its own settings", "practical cola B=2 2,000 steps of lamp"),
    (ON, "`lamp`, 600 steps", "practical cola B=2 lamp"),
)  # fmt: skip
ELSEWHERE = tuple(
    (name, attack, f"{key} B=1 {attack.split('`')[1]}")
    for key, name in (("sst2", "SST-2"), ("rotten_tomatoes", "Rotten Tomatoes"))
    for attack in ("`lamp`, its own settings", "`tag`, 400 steps", "`dlg`, 300 steps")
)
MODULES = ("q", "k", "v", "o", "f", "p", "o+p", "layer")
SCORES = ("updates", "ROUGE-1, 95 %", "ROUGE-2", "papers' convention, 1 / 2", "chance, ROUGE-1",
          "processor seconds")  # fmt: skip


def _scores(summary: Cell) -> list[Any]:
    return [
        summary["updates"], interval(summary["rouge1"], 1), f"{summary['rouge2']['mean']:.1f}",
        f"{summary['rouge1_paper']:.1f} / {summary['rouge2_paper']:.1f}",
        f"{summary['chance_rouge1']:.1f}", f"{summary['cpu_seconds']:.0f}",
    ]  # fmt: skip


def _order(results: Results, what: str, lines: Sequence[tuple[str, str, str]]) -> str:
    cells = results.cells("matching_order")
    rows = [[where, name, *_scores(cells[cell]["summary"])] for where, name, cell in lines]
    return table([what, "attack", *SCORES], rows)


def single(results: Results) -> str:
    """One CoLA sentence an update."""
    return _order(results, "what the client does", ONE)


def double(results: Results) -> str:
    """Two CoLA sentences an update."""
    return _order(results, "what the client does", TWO)


def elsewhere(results: Results) -> str:
    """One sentence of other data sets."""
    return _order(results, "data", ELSEWHERE)


def partial(results: Results) -> str:
    """ROUGE-1 off one matrix of one layer."""
    cells = results.cells("matching_partial")

    def mean(name: str) -> float | None:
        cell = cells.get(name)
        return None if cell is None else float(cell["summary"]["rouge1"]["mean"])

    grid = {layer: [mean(f"{layer} {module}") for module in MODULES] for layer in range(6)}
    rows: list[list[Any]] = [[layer, *map(_shown, values)] for layer, values in grid.items()]
    means = [[v for v in column if v is not None] for column in zip(*grid.values(), strict=True)]
    rows.append(["mean", *(_shown(fmean(values)) for values in means)])
    return table(["layer", *MODULES], rows)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def whole(results: Results) -> str:
    """ROUGE-1 off all of the gradient and off the encoder's."""
    cells = results.cells("matching_partial")
    rows = [[name, *_scores(cells[name]["summary"])] for name in ("all", "encoder")]
    return table(["of the gradient", *SCORES], rows)


def privacy(results: Results) -> str:
    """Noise read before it was added, and on the wire."""
    rows = [
        [name, *_scores(cell["summary"])] for name, cell in results.cells("matching_dp").items()
    ]
    return table(["where the gradient is read", *SCORES], rows)


def models(results: Results) -> str:
    """Other architectures."""
    rows = [
        [name, cell["settings"]["attack"].split("steps=")[1].split(",")[0],
         f"{cell['summary']['exact_match']['mean']:.2f}",
         f"{cell['summary']['bag_f1']['mean']:.2f}", *_scores(cell["summary"])]
        for name, cell in results.cells("matching_models").items()
    ]  # fmt: skip
    return table(["model / attack", "steps", "read exactly", "bag F1", *SCORES], rows)


def architectures(results: Results) -> str:
    """LAMP on models of any type."""
    rows = [
        [name, max(row["notes"].get("left_out", 0) for row in cell["rows"]),
         f"{cell['summary']['exact_match']['mean']:.2f}",
         f"{cell['summary']['bag_f1']['mean']:.2f}", *_scores(cell["summary"])]
        for name, cell in results.cells("matching_architectures").items()
    ]  # fmt: skip
    return table(["model", "parameters left out", "read exactly", "bag F1", *SCORES], rows)


def speed(results: Results) -> str:
    """LAMP against a plain loop, sentence by sentence."""
    rows = [
        [row["tokens"], f"{row['plain_seconds']:.0f}", f"{row['cpu_seconds']:.0f}",
         f"{row['ratio']:.1f}", f"{row['plain_rouge1']:.1f}", f"{row['samples'][0]['rouge1']:.1f}",
         f"{row['early_stop_ratio']:.1f}", f"{row['early_stop_rouge1']:.1f}"]
        for row in results.cells("matching_speed")["lamp, B=1"]["rows"]
    ]  # fmt: skip
    head = ["tokens", "plain loop, s", "ours, all steps, s", "ratio", "plain ROUGE-1", "ours",
            "ratio with early stop", "its ROUGE-1"]  # fmt: skip
    return table(head, rows)


def cache(results: Results) -> str:
    """GRAB's cached substitution."""
    rows = []
    for size in (8, 16):
        made = results.cells("matching_speed")[f"grab substitution, B={size}"]["rows"]
        rows.append([size, len(made), span((row["cache_ratio"] for row in made), 1),
                     span((row["ratio"] for row in made), 1),
                     f"{max(row['relative_error'] for row in made):.0e}"])  # fmt: skip
    head = ["sentences", "batches", "times the same engine without the cache",
            "times plain back-propagation", "relative difference, at most"]  # fmt: skip
    return table(head, rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "matching_one": single,
    "matching_two": double,
    "matching_elsewhere": elsewhere,
    "matching_partial": partial,
    "matching_whole": whole,
    "matching_dp": privacy,
    "matching_models": models,
    "matching_architectures": architectures,
    "matching_speed": speed,
    "matching_cache": cache,
}
