"""Tables of what DAGER reads."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from rows.markdown import Cell, Results, exact, span, table

DATASETS = {"cola": "CoLA", "sst2": "SST-2", "rotten_tomatoes": "Rotten Tomatoes"}
SIZES = (1, 2, 4, 8, 16)


def _cpu(cells: Iterable[Cell], digits: int = 1) -> str:
    return span((cell["cpu_seconds"]["median"] for cell in cells), digits)


def _rouge(cell: Cell, digits: int = 1) -> str:
    return f"{cell['metrics']['rouge1']['mean']:.{digits}f}"


def _pair(paper: Cell | None) -> str:
    """Return the paper's ROUGE-1 / ROUGE-2; a figure that could not be read is a question mark."""
    if paper is None:
        return "-"
    return " / ".join(
        "?" if paper[key] is None else f"{paper[key]:g}" for key in ("rouge1", "rouge2")
    )


def exact_(results: Results) -> str:
    """Sentences read exactly of a gradient of GPT-2 at its real size, by data set and batch."""
    cells = results.cells("dager_exact")
    rows = []
    for size in SIZES:
        row = [cells[f"{name} B={size}"] for name in DATASETS]
        papers = ", ".join(f"{cell['paper']['rouge1']:g}" for cell in row)
        prefixes = max(cell["distinct_prefixes"]["max"] for cell in row)
        counts = [f"{cell['exact']} of {cell['sentences']}" for cell in row]
        rows.append([size, *counts, papers, prefixes, _cpu(row)])
    head = ["batch", *DATASETS.values(), "the paper's ROUGE-1", "distinct prefixes, at most",
            "processor seconds"]  # fmt: skip
    return table(head, rows)


def _precision(cell: Cell | None) -> str:
    """Return the share of the guesses that are exact."""
    share = (cell or {}).get("precision")
    return "-" if share is None else f"{100 * share:.0f} %"


def fedavg(results: Results) -> str:
    """What is left of a batch after local SGD, in two dtypes."""
    cells = results.cells("dager_fedavg")
    rows = []
    for name, cell in cells.items():
        if not name.endswith("float32"):
            continue
        double = cells.get(name.replace("float32", "float64"))
        paper = _pair(cell.get("paper"))
        rows.append(
            [
                cell["epochs"], f"{cell['learning_rate']:g}", cell["mini_batch"], paper,
                f"{cell['exact']} of {cell['sentences']}", _rouge(cell), _precision(cell),
                f"{double['exact']} of {double['sentences']}" if double else "-",
                _rouge(double) if double else "-", _precision(double), _cpu([cell]),
            ]
        )  # fmt: skip
    head = ["epochs", "learning rate", "mini-batch", "paper (float64), ROUGE-1 / 2",
            "float32: exact", "ROUGE-1", "precision", "float64: exact", "ROUGE-1", "precision",
            "processor seconds, float32"]  # fmt: skip
    return table(head, rows)


def protocols(results: Results) -> str:
    """Other protocols than a plain float32 gradient."""
    rows = [
        [name, cell["size"], exact([cell]), _rouge(cell), _cpu([cell])]
        for name, cell in results.cells("dager_protocols").items()
        if "N(0" not in name
    ]
    return table(["the client sends", "batch", "exact", "ROUGE-1", "processor seconds"], rows)


def noise(results: Results) -> str:
    """Gaussian noise on an unclipped gradient, with two heads."""
    cells = results.cells("dager_protocols")
    rows = []
    for name, cell in cells.items():
        if "N(0" in name and not name.endswith("head"):
            small = cells[f"{name}, the paper's head"]
            sigma = name.split("(0, ")[1].split("^")[0]
            rows.append([f"{float(sigma):g}", _rouge(cell), _rouge(small), _pair(small["paper"])])
    head = ["sigma", "the model's own head: ROUGE-1", "a head as small as the paper's: ROUGE-1",
            "the paper, trained weights: ROUGE-1 / 2"]  # fmt: skip
    return table(head, rows)


def llama(results: Results) -> str:
    """Rotary models."""
    rows = [
        [name, exact([cell]), f"{cell['n']['max']} of {cell['d']}", _cpu([cell], 2)]
        for name, cell in results.cells("dager_llama").items()
    ]
    return table(["model, task, data", "exact", "inputs, at most, of d", "processor seconds"], rows)


def bert(results: Results) -> str:
    """Encoders: lengths together, then batches and deltas."""
    cells = results.cells("dager_bert")
    rows = []
    for model, title in (("minilm", "MiniLM, trained"), ("base", "BERT-base's size, random")):
        own = {n.split(", ", 1)[1]: cell for n, cell in cells.items() if n.startswith(model)}
        lengths = [cell for name, cell in own.items() if name.startswith("wikitext2")]
        longest = span((cell["longest"]["max"] for cell in lengths), 0)
        what = f"gradient of one WikiText-2 text of {longest} tokens"
        rows.append([title, what, exact(lengths), _cpu(lengths)])
        for name in sorted(own, key=lambda name: ("delta" in name, name)):
            if not name.startswith("wikitext2"):
                kind = "" if "delta" in name else "gradient, "
                rows.append([title, f"{kind}{name}", exact([own[name]]), _cpu([own[name]])])
    return table(["model, weights", "update", "exact", "processor seconds"], rows)


def speed(results: Results) -> str:
    """Ours against the paper's algorithms, written plainly."""
    rows = []
    for name, cell in results.cells("dager_speed").items():
        if not name.startswith("ratio"):
            continue
        ours, naive = cell["ours"], cell["naive"]
        more = "" if naive["finished"] else "more than "
        cpu = naive["cpu_seconds"] if naive["finished"] else None
        ratio = "-" if cpu is None else f"{cpu / ours['cpu_seconds']:.0f}"
        rows.append(
            [
                name.removeprefix("ratio "),
                f"{ours['seconds']:.2f}",
                f"{more}{naive['seconds']:.0f}",
                f"{more}{cell['ratio']:.0f}",
                f"{ours['cpu_seconds']:.2f}",
                "-" if cpu is None else f"{cpu:.0f}",
                ratio,
            ]
        )
    head = ["batch", "ours, s by the clock", "plain", "ratio", "ours, s of processor", "plain",
            "ratio"]  # fmt: skip
    return table(head, rows)


def growth(results: Results) -> str:
    """How time grows with vocabulary, length and batch."""
    rows = [
        [name.removeprefix("growth "), cell["distinct_prefixes"], f"{cell['cpu_seconds']:.2f}",
         f"{cell['peak_gb_beyond_model']:.2f}"]
        for name, cell in results.cells("dager_speed").items() if name.startswith("growth")
    ]  # fmt: skip
    return table(["batch", "distinct prefixes", "processor seconds", "GB beyond the model"], rows)


def unseen(results: Results) -> str:
    """Texts that no threshold was chosen on, and others of those that some were."""
    if "dager_unseen" not in results:
        return "Not measured yet: `python benchmarks/run.py dager/unseen`."
    rows = []
    for name, cell in results.cells("dager_unseen").items():
        what, _, sent = name.partition(" | ")
        verdicts = ", ".join(sorted({f"`{word}`" for word in cell.get("verdicts", [])})) or "-"
        rows.append([what, sent, exact([cell]), f"{cell['overlap']:.2f}", verdicts])
    return table(["model, weights, data", "update", "exact", "token overlap", "verdicts"], rows)


def sensitivity(results: Results) -> str:
    """Each number times 0.7 and 1.4: in which regimes guesses change."""
    if "dager_sensitivity" not in results:
        return "Not measured yet: `python benchmarks/run.py dager/sensitivity`."
    cells = results.cells("dager_sensitivity")
    rows, free = [], []
    for name in dict.fromkeys(name for cell in cells.values() for name in cell["numbers"]):
        used = {regime: cell for regime, cell in cells.items() if name in cell["numbers"]}
        less, more = (_changes(used, name, factor) for factor in ("x0.7", "x1.4"))
        if less or more:
            shown = ["; ".join(changes) or "nothing" for changes in (less, more)]
            rows.append([f"`{name}`", len(used), *shown])
        else:
            free.append(f"`{name}`")
    head = ["number", "regimes that read it", "what × 0.7 changes", "what × 1.4 changes"]
    sentences = sum(cell["sentences"] for cell in cells.values())
    return (
        f"{len(cells)} regimes, {sentences} sentences. Of {len(rows) + len(free)} numbers "
        f"{len(rows)} change a guess:\n\n{table(head, rows)}\n\n"
        f"No guess changes by moving {', '.join(free)}."
    )


def _changes(used: Mapping[str, Cell], name: str, factor: str) -> list[str]:
    """Return where the guesses change, and how: sentences read + invented."""
    changes = []
    for regime, cell in used.items():
        moved, base = cell["numbers"][name][factor], cell["base"]
        if "error" in moved:
            changes.append(f"{regime}: {moved['error'].partition(':')[0]}")
        elif not moved["same_guesses"]:
            told = [f"{run['exact']} + {run['guesses'] - run['exact']}" for run in (base, moved)]
            changes.append(f"{regime}: {' → '.join(told)}")
    return changes


def sure(results: Results) -> str:
    """How often the attack is sure, and how often wrongly, by family and kind of batch."""
    if "dager_sure" not in results:
        return "Not measured."
    families: dict[str, dict[str, Counter[str]]] = {}
    for name, cell in results.cells("dager_sure").items():
        kinds = families.setdefault(name.partition(",")[0], {})
        for kind, counts in cell["kinds"].items():
            kinds.setdefault(kind, Counter()).update(counts)
    names = ("batches", "sure", "sure_and_wrong", "batches_of_old", "old_sure_and_right",
             "of_these_still_sure", "old_sure_and_wrong")  # fmt: skip
    rows = [
        [family, kind, *(counts[name] for name in names)]
        for family, kinds in families.items()
        for kind, counts in sorted(kinds.items())
    ]
    return table(["model", "kind", *(name.replace("_", " ") for name in names)], rows)


def architectures(results: Results) -> str:
    """What is read of models of any type."""
    if "dager_architectures" not in results:
        return "Not measured."
    rows = []
    for name, cell in results.cells("dager_architectures").items():
        model, _, size = name.partition(" B=")
        if "refused" in cell:
            rows.append([model, size, "-", "refused: " + cell["refused"], "-"])
            continue
        why = "; ".join(cell["unsupported"])
        rows.append([model, size, cell["way"], exact([cell]) + (f" ({why})" if why else ""),
                     _cpu([cell])])  # fmt: skip
    return table(["model", "sentences a client", "read by", "exact", "processor seconds"], rows)


def smollm2(results: Results) -> str:
    """What is read of a trained LLM, over the data sets, and where the control fails, too."""
    groups: dict[tuple[str, str], dict[str, Cell]] = {}
    for name, cell in results.cells("dager_smollm2").items():
        task, data, kind = name.split(", ", 2)
        groups.setdefault((kind, task), {})[data] = cell
    rows = [
        [kind, task, *(f"{exact([cell])}; {cell['positive']}" for cell in cells.values()),
         _cpu(cells.values()),
         f"{max(cell['peak_gb_beyond_model'] for cell in cells.values()):.1f}"]
        for (kind, task), cells in groups.items()
    ]  # fmt: skip
    head = ["the client sends", "task", "SST-2: exact; control", "CoLA", "Alpaca",
            "processor seconds", "GB"]  # fmt: skip
    return table(head, rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "dager_exact": exact_,
    "dager_fedavg": fedavg,
    "dager_protocols": protocols,
    "dager_noise": noise,
    "dager_llama": llama,
    "dager_bert": bert,
    "dager_speed": speed,
    "dager_growth": growth,
    "dager_unseen": unseen,
    "dager_sensitivity": sensitivity,
    "dager_sure": sure,
    "dager_architectures": architectures,
    "dager_smollm2": smollm2,
}
