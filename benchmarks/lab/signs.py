"""What tells steps of Adam from sums of gradients: how even an update's entries and rows are.

    python benchmarks/run.py lab/signs

Clients of the tiny presets (random weights), MiniLM and stories260K (trained) train on sentences of
CoLA, or, with ``--data sst2``, on others: full or LoRA, SGD, momentum or AdamW, 1 to 30 steps.
Writes results/lab_signs.json; the thresholds of fedsim/lab/run/looks.py were chosen on CoLA.
"""

import itertools

from common.places import DATA
from common.results import Cell, arguments, markdown, start
from common.victims import pool

from fedsim.lab.run.looks import ADAM, ADAM_ROWS, looks_of
from fedsim.local import LocalTraining
from fedsim.models import ModelSpec, load_adapter
from fedsim.rng import global_stream, stream
from fedsim.training import Examples, TrainingSettings

MODELS = {
    "gpt2-tiny, random": "builtin:gpt2-tiny",
    "bert-tiny, random": "builtin:bert-tiny",
    "MiniLM, trained": str(DATA / "models" / "all-MiniLM-L6-v2-fp16"),
    "stories260K, trained": str(DATA / "models" / "stories260K-hf"),
}
RATES = {"sgd": 1e-2, "momentum": 1e-2, "adamw": 5e-5}
STEPS = (1, 3, 10, 30)
SIZE, BATCH = 16, 4  # examples of a client, of a step


def measure(name: str, rank: int, optimizer: str, steps: int, data: str, seed: int) -> Cell:
    """Return what one client's delta looks like."""
    adapter = load_adapter(ModelSpec(name=name, lora_rank=rank, lora_alpha=2 * rank))
    batch = pool(adapter, data).draw(SIZE, seed, steps)
    examples = Examples(sequences=batch.sequences, labels=batch.labels)
    settings = TrainingSettings(
        algorithm="fedavg",
        optimizer=optimizer,  # type: ignore[arg-type]
        learning_rate=RATES[optimizer],
        max_steps=steps,
        mini_batch_size=BATCH,
    )
    with global_stream(seed, "signs"):
        parameters = adapter.initial_parameters()
        training = LocalTraining(adapter, settings)
        delta, _ = training(parameters, examples, stream(seed, "signs", steps))
    looks = looks_of(delta)
    rows = None if looks.rows is None else round(looks.rows, 3)
    return {"kurtosis": round(looks.kurtosis, 3), "rows": rows, "adam": looks.adam("delta")}


def main() -> None:
    """Measure every cell that is not there yet."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", default="cola", help="whose sentences")
    parser.set_defaults(threads=1)
    options = parser.parse_args()
    results = start(options, "lab_signs", "steps of Adam show in how even an update is")
    for label, rank, optimizer, steps in itertools.product(MODELS, (0, 8), RATES, STEPS):
        settings = {"seed": options.seed, "data": options.data, "thresholds": [ADAM, ADAM_ROWS]}
        what = f"LoRA {rank}" if rank else "full"
        name = f"{label}, {options.data}, {what}, {optimizer} x {steps}"
        if results.known(name, settings) is None:
            cell = measure(MODELS[label], rank, optimizer, steps, options.data, options.seed)
            results.add(name, settings, cell)
            print(name, cell, flush=True)
    keys = ["kurtosis", "rows", "adam"]
    rows = [[name, *(cell[key] for key in keys)] for name, cell in results.cells.items()]
    results.write(table=markdown(["update", *keys], rows))


if __name__ == "__main__":
    main()
