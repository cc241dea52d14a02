"""Claim: counts of predicted tokens are exact at random weights; on trained ones the error is told.

    python benchmarks/run.py counts/labels [--clients 10] [--only NAME ...] [--smollm2 DIR]

Each cell is a model and a batch of N predicted tokens of WikiText-2's test; the attack is told no
lengths, and then is. The shares are of tokens with their counts. Writes results/counts_labels.json
after each cell.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from common.places import DATA
from common.results import Results, arguments, code, start
from common.victims import Victim, gpt2, stories, victim
from counts.bag import wikitext
from transformers import PhiConfig

from attacks import LabelCounts
from fedsim.lab.scoring.intervals import cluster_interval
from fedsim.local import LocalTraining
from fedsim.messages import Broadcast, Knowledge, Observation, Update
from fedsim.models import ModelSpec
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings

START = "attacks.labels"  # whose code a cell's stamp is of
SHAPES = ((1, 17), (4, 33), (8, 65))  # texts and tokens of each: N = 16, 128, 512


def with_bias() -> Victim:
    """Return a random decoder whose head has a bias and weights of its own: Phi in small."""
    tokenizer = DATA / "tokenizers" / "gpt2"
    folder = Path(tempfile.mkdtemp())
    PhiConfig(
        vocab_size=50257, hidden_size=128, intermediate_size=512, num_hidden_layers=3,
        num_attention_heads=4, bos_token_id=50256, eos_token_id=50256,
    ).save_pretrained(folder)  # fmt: skip
    spec = ModelSpec(name=str(folder), tokenizer=str(tokenizer), task="causal-lm", weights="random")
    return victim(spec)


def seen(who: Victim, examples: Examples) -> Observation:
    """Return what the server sees of a FedSGD client."""
    training = TrainingSettings()
    update, _ = LocalTraining(who.adapter, training)(who.parameters, examples, stream(1, "client"))
    return Observation(
        model=who.adapter,
        broadcast=Broadcast(round=1, parameters=who.parameters, config=training.as_config()),
        update=Update(tensors=update, kind="gradient", num_examples=len(examples)),
    )


def measure(
    name: str, who: Victim, shape: tuple[int, int], options: argparse.Namespace, results: Results
) -> None:
    """Attack one client after the other, told no lengths and told them."""
    size, length = shape
    settings = {"seed": options.seed, "clients": options.clients, "code": code(START)}
    if results.known(name, settings) is not None:
        return
    drawn = wikitext(who.adapter, length)
    cell: dict[str, object] = {"of": options.clients, "N": size * (length - 1)}
    told: dict[str, list[dict[str, float]]] = {"alone": [], "lengths": []}
    for index in range(options.clients):
        examples = drawn.draw(size, options.seed, index)
        examples = Examples(
            sequences=tuple(text[:length] for text in examples.sequences), labels=examples.labels
        )
        observation = seen(who, examples)
        true = Counter(token for text in examples.sequences for token in text[1:])
        for way, lengths in (("alone", None), ("lengths", (length,) * size)):
            shown = replace(observation, knowledge=Knowledge(lengths=lengths))
            guess = LabelCounts().reconstruct(shown, stream(options.seed, "attack", index))
            said = Counter(token for row in guess.sequences for token in row)
            shared = (true & said).total()
            told[way].append({
                "exact": float(true == said),
                "precision": shared / max(1, said.total()),
                "recall": shared / true.total(),
                "sure": float(bool(guess.diagnostics.get("counted"))),
                "N_right": float(guess.diagnostics["predicted"] == true.total()),
            })  # fmt: skip
    for way, clients in told.items():
        for key in clients[0]:
            values = [[one[key]] for one in clients]
            interval = cluster_interval(values, seed=options.seed, fraction=True)
            shown_ = (fmean(v[0] for v in values), interval.low, interval.high)
            cell[f"{way}_{key}"] = [round(value, 4) for value in shown_]
    results.add(name, settings, cell)
    print(name, cell, flush=True)


def main() -> None:
    """Measure the models."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument(
        "--smollm2", type=Path, help="its directory (shared/data/models/smollm2.py)"
    )
    options = parser.parse_args()
    results = start(options, "counts_labels", "counts of predicted tokens are exact at random")
    models: dict[str, Callable[[], Victim]] = {
        "head with a bias (random Phi, d 128)": with_bias,
        "GPT-2 at its real size (random)": lambda: gpt2(task="causal-lm"),
        "gpt2-tiny (random)": lambda: victim(ModelSpec(name="builtin:gpt2-tiny", task="causal-lm")),
        "llama-tiny (random, untied)": lambda: victim(
            ModelSpec(name="builtin:llama-tiny", task="causal-lm")
        ),
        "stories260K (trained, tied)": lambda: stories(task="causal-lm"),
    }
    if options.smollm2:
        spec = ModelSpec(name=str(options.smollm2), task="causal-lm")
        models["SmolLM2-135M (trained, tied)"] = lambda: victim(spec)
    for name, make in models.items():
        if not options.only or name in options.only:
            who = make()
            for shape in SHAPES:
                cell = f"{name}, N = {shape[0] * (shape[1] - 1)}"
                measure(cell, who, shape, options, results)


if __name__ == "__main__":
    main()
