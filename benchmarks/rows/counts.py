"""The tables of what is counted or written from counts: bag, labels, FILM."""

from collections.abc import Callable, Sequence

from rows.markdown import Results, table


def bag(results: Results) -> str:
    """Which types were found in each setting."""
    rows = [
        [
            name,
            f"{cell['exact_clients']} of {cell['of']}",
            f"{cell['most_tokens']} of {cell['d']}",
            f"{cell['found']} of {cell['types']}",
            cell["false"],
            f"{cell['dated']} of {cell['of_one_step']}" if cell["of_one_step"] else "-",
            cell["dated_wrong"] if cell["of_one_step"] else "-",
            f"{cell['placed']} of {cell['once']}" if cell["once"] else "-",
        ]
        for name, cell in results.cells("counts_bag").items()
    ]
    head = ["model, training", "clients read whole", "tokens, at most, of d", "types found",
            "false", "of one step: dated", "wrongly", "of one place: placed"]  # fmt: skip
    return table(head, rows)


def labels(results: Results) -> str:
    """How well next tokens were counted."""
    rows = [
        [
            name,
            cell["of"],
            *(_shown(cell[f"{how}_{what}"]) for how in ("alone", "lengths")
              for what in ("exact", "precision", "recall")),
        ]
        for name, cell in results.cells("counts_labels").items()
    ]  # fmt: skip
    head = ["model, N", "batches", "told nothing: all right", "precision", "recall",
            "told lengths: all right", "precision", "recall"]  # fmt: skip
    return table(head, rows)


def film(results: Results) -> str:
    """What FILM wrote beside as many unrelated sentences."""
    rows = []
    for name, cell in results.cells("counts_film").items():
        for key, metric in (("rouge1", "ROUGE-1"), ("rouge2", "ROUGE-2"), ("bag_f1", "bag F1")):
            ours, unrelated, more, low, high = cell[key]
            digits = 2 if key == "bag_f1" else 1
            rows.append([name, cell["of"], metric, *(f"{x:.{digits}f}" for x in (ours, unrelated)),
                         f"{more:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"])  # fmt: skip
    head = ["model, texts", "batches", "metric", "FILM", "no gradient", "difference"]
    return table(head, rows)


def _shown(figure: Sequence[float]) -> str:
    mean, low, high = figure
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


TABLES: dict[str, Callable[[Results], str]] = {
    "counts_bag": bag,
    "counts_film": film,
    "counts_labels": labels,
}
