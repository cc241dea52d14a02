"""Tables of the lab: the main job, sweeps, reports."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from rows.markdown import Cell, Results, interval, span, table

GRID = {"epochs": "training.local_epochs", "rate": "training.learning_rate",
        "mini": "training.mini_batch_size", "batch": "training.batch_size"}  # fmt: skip
DATA = {"cola": "CoLA", "sst2": "SST-2"}
STRANGE = "diverged: a row with its error"


def main_job(results: Results) -> str:
    """One round, read."""
    rows = []
    for name, cell in results.cells("main_job").items():
        leak = cell["leakage"]
        seconds = span(cell["attack_seconds_per_update"], 1)
        share = f"{leak['exact_match']['mean']:.2f}"
        if "exact_match_but_last" in leak:
            share += f"; but the last token {leak['exact_match_but_last']['mean']:.2f}"
        rows.append(
            [name, cell["samples"], share, cell["verdict"], seconds, cell["peak_memory_gb"]]
        )
    head = ["model, data", "sentences", "read exactly", "verdict", "seconds an update",
            "memory, GB"]  # fmt: skip
    return table(head, rows)


def _share(rows: Sequence[Cell], **keys: float) -> str:
    """Return the share of sentences read in the row with these values."""
    for row in rows:
        if all(row[GRID[key]] == value for key, value in keys.items()):
            value: Any = row.get("exact_match")
            return STRANGE if value is None else f"{value:.2f}"
    raise KeyError(f"no row with {keys}")


def _values(rows: Sequence[Cell], key: str) -> list[Any]:
    return sorted({row[GRID[key]] for row in rows})


def fedavg(results: Results) -> str:
    """The FedAvg audit: mini-batch, epochs, learning rate."""
    grid = results["sweep"]["fedavg"]["table"]
    rates = _values(grid, "rate")
    rows = [
        [mini, epochs, *(_share(grid, mini=mini, epochs=epochs, rate=rate) for rate in rates)]
        for mini in reversed(_values(grid, "mini"))
        for epochs in _values(grid, "epochs")
    ]
    head = ["mini-batch", "epochs", *(f"learning rate {rate:g}" for rate in rates)]
    return table(head, rows)


def batches(results: Results) -> str:
    """The share that is read, by sentences a client trains on."""
    grid = results["sweep"]["batches"]["table"]
    sizes = _values(grid, "batch")
    rows = [
        [mini, *(_share(grid, mini=mini, batch=size) for size in sizes)]
        for mini in reversed(_values(grid, "mini"))
    ]
    return table(["mini-batch", *(f"{size} sentences a client" for size in sizes)], rows)


def costs(results: Results) -> str:
    """What the sweeps took, and how much of it was neither training nor attack."""
    whole = results["sweep"]
    titles = {"fedavg": "the FedAvg audit", "seeds": "the same, two seeds",
              "batches": "sentences a client", "defenses": "the defense test",
              "gpt2": "GPT-2 at its real size"}  # fmt: skip
    rows = []
    for name, title in titles.items():
        part = whole[name]
        rows.append(
            [title, part["cells"], part["cells_failed"], f"{part['seconds']:.0f}",
             f"{part['seconds_of_processor']:.0f}", f"{part['seconds_to_start']:.1f}",
             f"{100 * part['overhead']:.1f} %", f"{100 * part['overhead_within_cells']:.1f} %"]
        )  # fmt: skip
    head = ["sweep", "cells", "of them failed", "seconds by the clock", "of processor",
            "to start", "overhead", "within cells"]  # fmt: skip
    return table(head, rows)


def defenses(results: Results) -> str:
    """The defense test in one command."""
    rows = []
    for row in results["sweep"]["defenses"]["table"]:
        verdicts = ", ".join(f"`{name}`" for name in row["verdicts"])
        overlap = interval(row["overlap"]["dager"], 2)
        rows.append([f"`{row['defense']}`", f"{row['exact_match']:.2f}", overlap, verdicts,
                     f"{row['utility_after']:.3f}"])  # fmt: skip
    head = ["defense", "read exactly", "token overlap, 95 %", "verdicts of its updates", "accuracy"]
    return table(head, rows)


def gpt2(results: Results) -> str:
    """The sweep over GPT-2 at its real size."""
    grid = results["sweep"]["gpt2"]["table"]
    rates = _values(grid, "rate")
    rows = [
        [epochs, *(_share(grid, epochs=epochs, rate=rate) for rate in rates)]
        for epochs in _values(grid, "epochs")
    ]
    return table(["epochs", *(f"learning rate {rate:g}" for rate in rates)], rows)


def report(results: Results) -> str:
    """1,000 samples, scored and reported."""
    rows = []
    for run in results["report"]["runs"]:
        times = [
            f"{run[part]['wall_seconds']:.1f} s ({run[part]['processor_seconds']:.1f} s)"
            for part in ("score_with_controls", "report")
        ]
        rows.append([run["characters_per_text"], *times, f"{run['html_bytes'] / 1e6:.1f} MB"])
    head = ["characters a sample", "scored, with controls", "reported", "`report.html`"]
    return table(head, rows)


def signs(results: Results) -> str:
    """How even an update is, by what trains, optimizer and data."""
    rows = []
    for (what, key), optimizer, data in itertools.product(
        {"full": "kurtosis", "LoRA 8": "rows"}.items(), ("sgd", "momentum", "adamw"), DATA
    ):
        some = [
            cell
            for name, cell in results.cells("lab_signs").items()
            if f", {data}, {what}, {optimizer} x " in name
        ]
        told = sum(cell["adam"] for cell in some)
        rows.append([what, optimizer, DATA[data], span((cell[key] for cell in some), 2),
                     f"{told} of {len(some)}"])  # fmt: skip
    head = ["what trains", "optimizer", "data", "kurtosis; of LoRA spread of B's rows",
            "taken for Adam"]  # fmt: skip
    return table(head, rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "lab_main_job": main_job,
    "lab_fedavg": fedavg,
    "lab_batches": batches,
    "lab_costs": costs,
    "lab_defenses": defenses,
    "lab_gpt2": gpt2,
    "lab_report": report,
    "lab_signs": signs,
}
