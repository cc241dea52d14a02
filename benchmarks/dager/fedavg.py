"""Claim: what DAGER reads of a FedAvg delta hangs on the float the client computes in.

Measures the paper's grid (epochs, learning rate, mini-batch size) for GPT-2 at its real size with
random weights, Rotten Tomatoes, 16 sentences a client, plain SGD, and larger learning rates too:
each cell once in float32, as real clients train, and once in float64, as the paper's code does
(training, difference and update). With every cell the noise floor that was measured, the one that
a rule of thumb predicts, and the paper's ROUGE. Writes results/dager_fedavg.json, or with --head
results/dager_fedavg_small_head.json.

    python benchmarks/run.py dager/fedavg [--dtype float32 float64] [--batches 1] [--head 1e-3]
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from common.attempts import Attempt, attempt, summary
from common.results import Cell, Results, arguments, markdown, singular_values, start
from common.victims import Victim, gpt2, pool, victim, with_head
from torch import Tensor, nn

from fedsim.local import LocalTraining, make_optimizer
from fedsim.messages import Update
from fedsim.models import ModelAdapter, ModelSpec
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Parameters

SIZE = 16
QUIET = 21  # the singular value that leaves so many below it shows the noise
# DAGER, arXiv:2405.15586v2, table 4: ROUGE-1, ROUGE-2, in float64, trained weights; by
# (epochs, learning rate, mini-batch)
PAPER = {
    (2, 1e-4, 4): (98.4, 98.0),
    (5, 1e-4, 4): (97.3, 96.8),
    (10, 1e-4, 4): (95.4, 94.7),
    (20, 1e-4, 4): (96.0, 95.3),
    (10, 1e-5, 4): (100.0, 99.8),
    (10, 5e-5, 4): (99.8, 99.6),
    (10, 5e-4, 4): (84.2, 82.2),
    (10, 1e-4, 2): (93.2, 92.3),
    (10, 1e-4, 8): (98.6, 98.2),
    (10, 1e-4, 16): (100.0, 99.8),
}
RATES = (1e-3, 5e-3, 1e-2)  # beyond the paper's, at 10 epochs and mini-batches of 4
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Plan:
    """One training whose snapshots are cells: as many as there are numbers of epochs."""

    learning_rate: float
    mini_batch: int
    epochs: tuple[int, ...]

    def settings(self, epochs: int) -> TrainingSettings:
        """Return the settings of the client whose training ends after ``epochs``."""
        return TrainingSettings(
            algorithm="fedavg",
            local_epochs=epochs,
            mini_batch_size=self.mini_batch,
            learning_rate=self.learning_rate,
        )


def plans() -> list[Plan]:
    """Return the trainings of the grid."""
    epochs: dict[tuple[float, int], list[int]] = {}
    for count, rate, mini in [*PAPER, *((10, rate, 4) for rate in RATES)]:
        epochs.setdefault((rate, mini), []).append(count)
    return [Plan(rate, mini, tuple(sorted(e))) for (rate, mini), e in sorted(epochs.items())]


# The client


def train(
    adapter: ModelAdapter,
    module: nn.Module,
    sent: Parameters,
    examples: Examples,
    plan: Plan,
    generator: torch.Generator,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Train ``module``, which holds ``sent``; yield (epochs, delta) after each of ``plan.epochs``.

    ``LocalTraining`` for plain SGD in whatever dtype ``module`` has: it draws one order of the
    examples per epoch from its generator and nothing else, so a shorter training is the beginning
    of a longer one. ``check`` holds it to that.
    """
    settings = plan.settings(max(plan.epochs))
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(settings, list(trained.values()))
    for epoch in range(1, settings.local_epochs + 1):
        order = torch.randperm(len(examples), generator=generator).tolist()
        for first in range(0, len(order), plan.mini_batch):
            some = examples.take(order[first : first + plan.mini_batch])
            optimizer.zero_grad(set_to_none=True)
            module(**adapter.batch(some.sequences, some.labels, generator)).loss.backward()
            optimizer.step()
        if epoch in plan.epochs:
            optimizer.zero_grad(set_to_none=True)
            yield epoch, {name: p.detach() - sent[name].to(p.dtype) for name, p in trained.items()}


def clone(who: Victim, dtype: torch.dtype) -> nn.Module:
    """Return the client's own module at the weights sent, in ``dtype``."""
    module: nn.Module = who.adapter.build()
    module.to(dtype)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(who.parameters[name])
    return module.eval()


def check() -> None:
    """Have ``train`` give what ``LocalTraining`` gives, bit for bit, on the tiny preset."""
    who = victim(ModelSpec(name="builtin:gpt2-tiny"))
    ids = stream(0, "check")
    sequences = tuple(
        tuple(torch.randint(9, 2000, (5 + row,), generator=ids).tolist()) for row in range(6)
    )
    examples = Examples(sequences=sequences, labels=(0, 1, 0, 1, 0, 1))
    plan = Plan(0.05, 4, (1, 3))
    module = clone(who, torch.float32)
    for epochs, delta in train(
        who.adapter, module, who.parameters, examples, plan, stream(0, "training")
    ):
        local = LocalTraining(who.adapter, plan.settings(epochs))
        wanted, _ = local(who.parameters, examples, stream(0, "training"))
        assert delta.keys() == wanted.keys()
        assert all(torch.equal(delta[name], wanted[name]) for name in wanted), epochs
    print("the loop here gives what LocalTraining gives, bit for bit", flush=True)


# Noise


def floors(who: Victim, delta: Parameters, plan: Plan, steps: int) -> Cell:
    """Return the noise in the deltas of the weights that the attack reads, over the largest value.

    ``measured`` is the singular value that leaves ``QUIET`` - 1 below it. ``rule`` is that of
    rounding alone: rms ulp(W) / sqrt(12) / (lr sqrt(K)) (sqrt d_in + sqrt d_out) in units of the
    mean gradient of K steps, so lr K times as much in the delta, where the rate drops out.
    ``share_unmoved`` counts weights whose every step was rounded away.
    """
    layers: Cell = {}
    for layer in (0, 1):
        (weight,) = who.adapter.projections(layer)
        tensor = delta[weight.name]
        values = singular_values(tensor)
        start_ = who.parameters[weight.name].to(tensor.dtype).numpy()
        ulp = float(np.sqrt(np.mean(np.spacing(np.abs(start_)).astype(np.float64) ** 2)))
        rounding = ulp / 12**0.5 * steps**0.5 * sum(side**0.5 for side in tensor.shape)
        layers[f"layer_{layer}"] = {
            "largest": values[0].item(),
            "measured": (values[-QUIET] / values[0]).item(),
            "smallest": (values[-1] / values[0]).item(),
            "rule": rounding / values[0].item(),
            "rule_in_gradient_units": rounding / (plan.learning_rate * steps),
            "share_unmoved": (tensor == 0).double().mean().item(),
        }
    return layers


# The grid


def measure(
    who: Victim, plan: Plan, dtype: str, results: Results, options: argparse.Namespace
) -> None:
    """Train each batch once, attack at every snapshot, write the cells of ``plan``."""
    settings = {"batches": options.batches, "seed": options.seed, "size": options.size}
    settings["head"] = options.head
    missing = tuple(e for e in plan.epochs if not results.known(key(e, plan, dtype), settings))
    if not missing:
        print(f"{key(plan.epochs[0], plan, dtype)} and its like: already there", flush=True)
        return
    plan = Plan(plan.learning_rate, plan.mini_batch, missing)
    sentences = pool(who.adapter, "rotten_tomatoes")
    attempts: dict[int, list[Attempt]] = {epochs: [] for epochs in missing}
    noise: dict[int, Cell] = {}
    for index in range(options.batches):
        examples = sentences.draw(options.size, options.seed, index)
        module = clone(who, DTYPES[dtype])
        generator = stream(options.seed, "training", index)
        for epochs, delta in train(who.adapter, module, who.parameters, examples, plan, generator):
            steps = epochs * -(-len(examples) // plan.mini_batch)
            noise.setdefault(epochs, floors(who, delta, plan, steps))
            update = Update(tensors=delta, kind="delta", num_examples=len(examples))
            outcome = attempt(who, update, examples, seed=options.seed)
            attempts[epochs].append(outcome)
            print(
                f"  {key(epochs, plan, dtype)} batch {index}: "
                f"{outcome.exact}/{len(examples)} exact, "
                f"{outcome.prefixes} prefixes, {outcome.cost.seconds:.1f} s {outcome.error}",
                flush=True,
            )
    for epochs in missing:
        paper = PAPER.get((epochs, plan.learning_rate, plan.mini_batch))
        figures = {
            "dtype": dtype,
            "epochs": epochs,
            "learning_rate": plan.learning_rate,
            "mini_batch": plan.mini_batch,
            **summary(attempts[epochs], who.adapter.width),
            "noise_of_batch_0": noise[epochs],
            "paper": dict(zip(("rouge1", "rouge2"), paper, strict=True)) if paper else None,
        }
        results.add(key(epochs, plan, dtype), settings, figures)


def key(epochs: int, plan: Plan, dtype: str) -> str:
    """Return a cell's name."""
    return f"E={epochs} lr={plan.learning_rate:g} mini-batch={plan.mini_batch} {dtype}"


def table(results: Results) -> str:
    """Return the cells as a table, float32 beside float64."""
    rows = []
    places = {(c["learning_rate"], c["mini_batch"], c["epochs"]) for c in results.cells.values()}
    for rate, mini, epochs in sorted(places):
        paper = PAPER.get((epochs, rate, mini))
        row = [epochs, f"{rate:g}", mini, " / ".join(map(str, paper)) if paper else ""]
        for dtype in DTYPES:
            cell = results.cells.get(key(epochs, Plan(rate, mini, ()), dtype))
            row += _figures(cell) if cell else [""] * 4
        rows.append(row)
    columns = ["E", "lr", "mini-batch", "paper R-1 / R-2"]
    for dtype in DTYPES:
        columns += [f"{dtype}: exact", "R-1 / R-2", "floor l0, l1 (rule)", "s"]
    return markdown(columns, rows)


def _figures(cell: Cell) -> list[str]:
    noise = cell["noise_of_batch_0"].values()
    return [
        f"{cell['exact']}/{cell['sentences']}",
        " / ".join(f"{cell['metrics'][name]['mean']:.1f}" for name in ("rouge1", "rouge2")),
        ", ".join(f"{layer['measured']:.0e} ({layer['rule']:.0e})" for layer in noise),
        f"{cell['seconds']['median']:.1f}",
    ]


def main() -> None:
    """Measure the grid; write after each training."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--batches", type=int, default=1, help="per cell")
    parser.add_argument("--size", type=int, default=SIZE, help="sentences a client")
    parser.add_argument(
        "--head", type=float, help="its deviation (the paper's: 1e-3); default: 0.02"
    )
    parser.add_argument("--plans", type=int, help="only the first so many trainings")
    options = parser.parse_args()
    check()
    claim = "what DAGER reads of a FedAvg delta hangs on the float the client computes in"
    results = start(
        options,
        "dager_fedavg_small_head" if options.head else "dager_fedavg",
        claim,
        model="GPT-2 at real size, random weights",
        head=options.head or "the model's own, 0.02",
        data=f"rotten_tomatoes, {options.size} sentences a client, plain SGD",
        dtype="of the client's training: in each cell's name; the attack computes as it does",
    )
    who = with_head(gpt2(), options.head) if options.head else gpt2()
    for dtype in options.dtype:
        for plan in plans()[: options.plans]:
            measure(who, plan, dtype, results, options)
            results.write(table=table(results))
    print(table(results))


if __name__ == "__main__":
    main()
