"""Claim: DAGER needs neither plain FedSGD nor float32; where it fails, the protocol says why.

Measures on GPT-2 at its real size with random weights, Rotten Tomatoes: local SGD with and without
momentum over several epochs and mini-batches, of one sentence too; AdamW, whose scaling breaks the
span, as it is; a float16 wire; a next-token loss; LoRA of rank 256 on the first step, after local
steps and one round later; and Gaussian noise on the gradient without clipping, B = 1, beside the
paper's table 10 (of trained weights): with the model's own head, and with the paper's, 20 times
smaller, as the gradients then are. An update that the attack refuses is recorded with its reason.
Writes results/dager_protocols.json.

    python benchmarks/run.py dager/protocols [--only sgd lora noise ...] [--batches 5]
"""

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from common.attempts import run_batches, share, split, summary
from common.results import Cell, Results, arguments, markdown, singular_values, start
from common.victims import Victim, client_update, gpt2, pool, with_head

from fedsim.messages import Update
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings

# DAGER, arXiv:2405.15586v2, table 10: GPT-2, Rotten Tomatoes, B = 1: ROUGE-1, ROUGE-2
PAPER_NOISE = {1e-5: (74.0, 70.8), 5e-5: (46.9, 32.5), 1e-4: (20.7, 11.6), 5e-4: (5.6, 0.9)}
PAPER_HEAD = 1e-3  # the standard deviation of the classifier's head in the paper's code
RANK = 256
TOGETHER = 3e-2  # the server's learning rate of LoRA's first round

Make = Callable[[Victim, int, Examples, int], Update]  # (victim, batch, examples, seed)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One cell: how an update comes about.

    Attributes:
        kind: what ``--only`` calls it.
        size: sentences a client.
        make: computes the update.
        task: the loss.
        lora: LoRA's rank; 0 for none.
        head: the standard deviation of the classifier's head; 0: as the model has it.
        later: the broadcast is that of a second round, after one step of other sentences.
        paper: ROUGE-1 and ROUGE-2 in the paper.
    """

    kind: str
    size: int
    make: Make
    task: str = "classification"
    lora: int = 0
    head: float = 0.0
    later: bool = False
    paper: tuple[float, float] | None = None


def trained(**settings: object) -> Make:
    """Return how a client that trains with ``settings`` computes its update."""
    chosen = TrainingSettings(**settings)  # type: ignore[arg-type]

    def make(who: Victim, index: int, examples: Examples, seed: int) -> Update:
        return client_update(who, examples, chosen, stream(seed, "training", index))

    return make


def noisy(sigma: float) -> Make:
    """Return how a client sends its gradient with N(0, sigma^2) on every entry, never clipped."""

    def make(who: Victim, index: int, examples: Examples, seed: int) -> Update:
        clean = client_update(who, examples, TrainingSettings(), torch.Generator())
        generator = stream(seed, "noise", index)
        tensors = {
            name: tensor + sigma * torch.randn(tensor.shape, generator=generator)
            for name, tensor in clean.tensors.items()
        }
        return Update(tensors=tensors, kind="gradient", num_examples=clean.num_examples)

    return make


def protocols() -> dict[str, Protocol]:
    """Return every cell by name."""
    local = {"algorithm": "fedavg", "learning_rate": 1e-2}
    several = local | {"local_epochs": 3, "mini_batch_size": 2}
    adam = local | {"optimizer": "adamw", "learning_rate": 1e-4}
    few = local | {"local_epochs": 2, "mini_batch_size": 2}
    single = {"algorithm": "fedavg", "mini_batch_size": 1}
    protocols = {
        "gradient": Protocol(kind="gradient", size=4, make=trained()),
        "gradient, float16 wire": Protocol(
            kind="float16", size=4, make=trained(wire_dtype="float16")
        ),
        "gradient, causal-lm": Protocol(kind="causal-lm", size=4, make=trained(), task="causal-lm"),
        "1 step of SGD, lr 1e-2": Protocol(kind="sgd", size=4, make=trained(**local)),
        "SGD, 3 epochs, mini-batches of 2, lr 1e-2": Protocol(
            kind="sgd", size=4, make=trained(**several)
        ),
        "momentum, 3 epochs, mini-batches of 2, lr 1e-2": Protocol(
            kind="momentum", size=4, make=trained(**several, optimizer="momentum")
        ),
        "SGD, 3 epochs, mini-batches of 2, lr 1e-2, float16 wire": Protocol(
            kind="float16", size=4, make=trained(**several, wire_dtype="float16")
        ),
        "AdamW, 1 step, lr 1e-4": Protocol(kind="adamw", size=4, make=trained(**adam)),
        "AdamW, 3 epochs, mini-batches of 2, lr 1e-4": Protocol(
            kind="adamw", size=4, make=trained(**several | adam)
        ),
        f"LoRA {RANK}, gradient at B = 0": Protocol(kind="lora", size=4, make=trained(), lora=RANK),
        f"LoRA {RANK}, 4 local steps from B = 0, lr 1e-2": Protocol(
            kind="lora", size=4, make=trained(**few), lora=RANK
        ),
        f"LoRA {RANK}, gradient in round 2": Protocol(
            kind="lora", size=4, make=trained(), lora=RANK, later=True
        ),
    }
    for rate, epochs in itertools.product((1e-4, 1e-2), (1, 4)):
        protocols[f"SGD, {epochs} epochs, mini-batches of 1, lr {rate:g}"] = Protocol(
            kind="single",
            size=4,
            make=trained(**single, learning_rate=rate, local_epochs=epochs),
        )
    for sigma, paper in PAPER_NOISE.items():
        name = f"gradient + N(0, {sigma:g}^2)"
        protocols[name] = Protocol(kind="noise", size=1, make=noisy(sigma))
        protocols[f"{name}, the paper's head"] = Protocol(
            kind="noise", size=1, make=noisy(sigma), head=PAPER_HEAD, paper=paper
        )
    return protocols


def next_round(who: Victim, seed: int) -> Victim:
    """Return the victim one round on: a server's step along the gradient of other sentences."""
    others = pool(who.adapter, "rotten_tomatoes").draw(8, seed, -1)
    update = client_update(who, others, TrainingSettings(), torch.Generator())
    moved = {
        name: tensor - TOGETHER * update.tensors[name] for name, tensor in who.parameters.items()
    }
    return Victim(who.adapter, moved)


def measure(protocol: Protocol, options: argparse.Namespace) -> Cell:
    """Attack ``options.batches`` updates that came about by ``protocol``."""
    fields = {"task": protocol.task, "lora_rank": protocol.lora}
    who = gpt2(**fields)
    if protocol.head:
        who = with_head(who, protocol.head)
    if protocol.later:
        who = next_round(who, options.seed)
    sentences = pool(who.adapter, "rotten_tomatoes")
    size = min(protocol.size, options.most)
    batches = (sentences.draw(size, options.seed, index) for index in range(options.batches))
    largest: list[float] = []

    def make(index: int, examples: Examples) -> Update:
        update = protocol.make(who, index, examples, options.seed)
        largest.extend(largest_values(who, update))
        return update

    attempts = run_batches(who, batches, make, seed=options.seed)
    within, beyond = split(attempts, who.adapter.width)
    paper = protocol.paper and dict(zip(("rouge1", "rouge2"), protocol.paper, strict=True))
    return {
        "size": size,
        **summary(within, who.adapter.width),
        "largest_singular_value": median(largest) if largest else None,
        "paper": paper,
        "beyond": summary(beyond, who.adapter.width),
    }


def largest_values(who: Victim, update: Update) -> list[float]:
    """Return the largest singular value of the update of block 0's q, k and v, if it is there.

    Beside it stands what noise of deviation sigma has: sigma (sqrt d_in + sqrt d_out) = 75.7 sigma.
    """
    names = [weight.name for weight in who.adapter.projections(0)]
    return [
        singular_values(update.tensors[name])[0].item() for name in names if name in update.tensors
    ]


def table(results: Results) -> str:
    """Return the cells as a table."""
    rows = []
    for name, cell in results.cells.items():
        paper = cell["paper"]
        rows.append(
            [
                name,
                cell["size"],
                f"{cell['exact']}/{cell['sentences']} ({share(cell):.3f})",
                f"{cell['metrics']['exact_match']['mean']:.3f}",
                " / ".join(
                    f"{cell['metrics'][metric]['mean']:.1f}" for metric in ("rouge1", "rouge2")
                ),
                f"{paper['rouge1']} / {paper['rouge2']}" if paper else "",
                f"{cell['seconds']['median']:.1f} / {cell['seconds']['max']:.1f}",
                "; ".join(cell["unsupported"]),
            ]
        )
    columns = ["cell", "B", "exact", "with last tokens", "R-1 / R-2", "paper's"]
    return markdown([*columns, "seconds (median / max)", "refused"], rows)


def main() -> None:
    """Measure the protocols asked for; write after each."""
    known = protocols()
    kinds = list(dict.fromkeys(protocol.kind for protocol in known.values()))
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--batches", type=int, default=5, help="per cell")
    parser.add_argument("--most", type=int, default=4, help="sentences a client, at most")
    options = parser.parse_args()
    claim = "DAGER needs neither plain FedSGD nor float32; where it fails, the protocol says why"
    results = start(options, "dager_protocols", claim, model="GPT-2 at real size, random weights")
    settings = {"batches": options.batches, "seed": options.seed, "most": options.most}
    for name, protocol in known.items():
        if protocol.kind in options.only:
            results.cell(
                name,
                settings,
                lambda protocol=protocol: measure(protocol, options),  # type: ignore[misc]
            )
    text = table(results)
    results.write(table=text)
    print(text)


if __name__ == "__main__":
    main()
