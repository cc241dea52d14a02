"""DAGER reads a trained LLM: SmolLM2-135M (d = 576, 30 blocks, 49,152 tokens), with its controls.

    python ../shared/data/models/smollm2.py MODEL && python benchmarks/run.py dager/smollm2 MODEL

Sentences of SST-2 and CoLA, instructions of Alpaca (up to 48 tokens); two clients a cell. Gradients
of 1, 4 and 8 texts, deltas of two epochs of SGD on 4 texts in mini-batches of 2, LoRA (alpha = 2 r)
of rank 256 on 4 texts and of rank 32 on a short one, so that it holds fewer tokens than the rank.
Beside each cell the positive control (public sentences as long as the first client's, the same
training). Writes results/dager_smollm2.json, a cell at a time.
"""

import argparse
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path

from common.attempts import Attempt, run_batches, summary
from common.places import DATA, need_data
from common.results import Cell, Results, arguments, markdown, start
from common.victims import Pool, Victim, client_update, pool, prefixes, victim

from fedsim.lab.run.controls import own_sequences
from fedsim.messages import Update
from fedsim.models import ModelAdapter, ModelSpec
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings

LONG, SHORT, LEAST = 48, 28, 6  # tokens
SGD = TrainingSettings(
    algorithm="fedavg", local_epochs=2, mini_batch_size=2, learning_rate=1e-3, optimizer="sgd"
)
KINDS: dict[str, tuple[int, int, TrainingSettings]] = {  # LoRA's rank, texts, training
    "gradient B=1": (0, 1, TrainingSettings()),
    "gradient B=4": (0, 4, TrainingSettings()),
    "gradient B=8": (0, 8, TrainingSettings()),
    "SGD delta B=4": (0, 4, SGD),
    "LoRA 256, gradient B=4": (256, 4, TrainingSettings()),
    "LoRA 256, SGD delta B=4": (256, 4, SGD),
    "LoRA 32, gradient B=1": (32, 1, TrainingSettings()),
}


def instructions(adapter: ModelAdapter) -> Pool:
    """Return Alpaca's instructions with their inputs, in the template's short words."""
    need_data()
    (path,) = sorted((DATA / "datasets" / "alpaca").glob("*.json"))
    rows = json.loads(path.read_text(encoding="utf-8"))
    texts = [f"### Instruction: {r['instruction']} {r['input']}".strip() for r in rows]
    encoded = dict.fromkeys(map(tuple, adapter.tokenizer(texts)["input_ids"]))
    labels = tuple(row % 2 for row in range(len(encoded)))
    return Pool("alpaca", Examples(sequences=tuple(encoded), labels=labels))


@functools.cache
def loaded(model: str, task: str, rank: int) -> Victim:
    """Return the model as it was trained, under a new head where it classifies."""
    return victim(ModelSpec(name=model, task=task, lora_rank=rank, lora_alpha=2.0 * rank))  # type: ignore[arg-type]


def measure(who: Victim, data: str, kind: str, seed: int, label: str) -> Cell:
    """Return the figures of two clients, and of the controls."""
    rank, size, settings = KINDS[kind]
    some = instructions(who.adapter) if data == "alpaca" else pool(who.adapter, data)
    most = SHORT if rank == 32 else LONG
    some = some.only(lambda tokens: LEAST <= len(tokens) <= most)
    batches = [some.draw(size, seed, index) for index in range(2)]

    def attacked(batches: list[Examples], label: str) -> list[Attempt]:
        def make(index: int, examples: Examples) -> Update:
            return client_update(who, examples, settings, stream(seed, "client", index))

        return run_batches(who, batches, make, seed=seed, label=label)

    attempts = attacked(batches, label)
    own = own_sequences(who.adapter, [len(tokens) for tokens in batches[0].sequences])
    public = Examples(sequences=own, labels=tuple(i % 2 for i in range(len(own))))
    (control,) = attacked([public], f"{label}, control")
    return {
        **summary(attempts, who.adapter.width, seed=seed),
        "positive": f"{control.exact} of {len(own)}",
        "prefixes_of_clients": [sum(prefixes(batch.sequences)) for batch in batches],
    }


def main() -> None:
    """Measure every cell that is not there yet."""
    parser = arguments(str(__doc__))
    parser.add_argument("model", type=Path, help="what shared/data/models/smollm2.py wrote")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.set_defaults(threads=1)
    options: argparse.Namespace = parser.parse_args()
    results: Results = start(options, "dager_smollm2", "DAGER reads a trained LLM")
    for kind, task, data in itertools.product(
        options.kinds, ("classification", "causal-lm"), ("sst2", "cola", "alpaca")
    ):
        name = f"{task}, {data}, {kind}"
        work: Callable[[], Cell] = functools.partial(
            _cell, str(options.model), task, data, kind, options.seed
        )
        results.cell(name, {"seed": options.seed}, work)
    rows = [
        [name, f"{cell['exact']} of {cell['sentences']}", cell["positive"],
         cell["cpu_seconds"]["median"], cell["peak_gb_beyond_model"]]
        for name, cell in results.cells.items()
    ]  # fmt: skip
    print(markdown(["cell", "exact", "control", "processor seconds", "GB"], rows))


def _cell(model: str, task: str, data: str, kind: str, seed: int) -> Cell:
    who = loaded(model, task, KINDS[kind][0])
    return measure(who, data, kind, seed, f"{task}, {data}, {kind}")


if __name__ == "__main__":
    main()
