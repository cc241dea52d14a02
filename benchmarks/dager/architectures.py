"""DAGER reads models of any type: through their module graph where no family file has them.

    python benchmarks/run.py dager/architectures --only mistral falcon

Tiny models with random weights (shared/facts/generic_adapter/build_models.py), FedSGD, CoLA: of
decoders two clients of two sentences each, of encoders of one and of two. Of the families that have
a file, the same with it switched off: what the graph costs. Of those on whose batches a threshold
was chosen, six more clients' that nobody had looked at then ("unseen").
"""

import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import results as shared
from common.attempts import run_batches, summary
from common.places import DATA
from common.results import Cell, Results, arguments, start
from common.victims import Victim, gradient, pool
from transformers import PreTrainedConfig

from fedsim.errors import BadInput
from fedsim.models import ModelSpec, load_adapter
from fedsim.models.generic import generic

CLIENTS = 2
LONG = 14  # tokens of a sentence, at most: these models' windows are of 16
UNSEEN = range(200, 206)  # batches
CHOSEN = ("deberta-v2", "albert", "modernbert")  # on whose batches a threshold was chosen
FILES = ("gpt2", "llama3-rope-tied", "tinyllama-headdim", "bert")


def architectures() -> dict[str, tuple[PreTrainedConfig, str, str]]:
    """Return the configurations that the prototype was tried on, with tokenizer and kind."""
    script = DATA.parent / "facts" / "generic_adapter" / "build_models.py"
    with tempfile.TemporaryDirectory() as folder:
        before, sys.argv = sys.argv, [str(script), str(DATA / "tokenizers"), folder]
        try:
            specs: dict[str, Any] = runpy.run_path(str(script))["specs"]
        finally:
            sys.argv = before
    return specs


def built(folder: Path, config: PreTrainedConfig, tokenizer: str, *, by_graph: bool) -> Victim:
    """Return a model at its first weights, through its graph where that is asked for."""
    config.save_pretrained(folder)
    where = str(DATA / "tokenizers" / tokenizer)
    adapter = load_adapter(ModelSpec(name=str(folder), tokenizer=where, weights="random"))
    kind = generic(config.model_type)
    if by_graph and kind is not None:
        adapter = kind(adapter.spec, adapter.config, adapter.tokenizer, adapter.options)
    return Victim(adapter, adapter.initial_parameters())


def measure(
    who: Victim, size: int, seed: int, label: str, numbers: Sequence[int] = range(CLIENTS)
) -> Cell:
    """Return the figures of the clients' updates of so many sentences each."""
    sentences = pool(who.adapter, "cola").only(lambda tokens: 4 <= len(tokens) <= LONG)
    batches = [sentences.draw(size, seed, index) for index in numbers]
    attempts = run_batches(
        who, batches, lambda _, examples: gradient(who, examples), seed=seed, label=label
    )
    way = "graph" if who.adapter.by_graph else "family"
    return {"way": way, **summary(attempts, who.adapter.width)}


def run(results: Results, name: str, what: tuple[PreTrainedConfig, str, str], seed: int) -> None:
    """Measure one architecture, with its family's file and without."""
    config, tokenizer, kind = what
    for by_graph in (False, True) if name in FILES else (False,):
        for size in (2,) if kind == "causal" else (1, 2):
            label = f"{name} B={size}" + (", file switched off" if by_graph else "")

            def cell(size: int = size, by_graph: bool = by_graph, label: str = label) -> Cell:
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        who = built(Path(folder), config, tokenizer, by_graph=by_graph)
                    except BadInput as error:
                        return {"refused": str(error).replace(repr(folder), "it")}
                    return measure(who, size, seed, label)

            results.cell(label, {"seed": seed, "kind": kind}, cell)
    for size in (1, 2, 4) if name in CHOSEN else ():
        label, settings = f"{name} B={size}, unseen", {"seed": seed, "batches": [*UNSEEN]}

        def unseen(size: int = size, label: str = label) -> Cell:
            with tempfile.TemporaryDirectory() as folder:
                who = built(Path(folder), config, tokenizer, by_graph=False)
            return measure(who, size, seed, label, UNSEEN)

        results.cell(label, settings, unseen)


def main() -> None:
    """Measure every architecture."""
    parser = arguments(str(__doc__))
    parser.add_argument("--only", nargs="*", default=[], help="architectures; default: all")
    options = parser.parse_args()
    results = start(options, "dager_architectures", "models of any type are read through a graph")
    for name, what in architectures().items():
        if not options.only or name in options.only:
            run(results, name, what, options.seed)
    rows = [
        [name, cell.get("way", "-"), cell.get("exact", "-"), cell.get("sentences", "-"),
         cell.get("cpu_seconds", {}).get("median", cell.get("refused", ""))]
        for name, cell in results.cells.items()
    ]  # fmt: skip
    print(shared.markdown(["model", "by", "exact", "of", "processor seconds"], rows))


if __name__ == "__main__":
    main()
