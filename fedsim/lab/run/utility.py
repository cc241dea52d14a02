"""Utility: how good the global model is on held-out text, beside how much its training leaks."""

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from fedsim.lab.store.rounds import RoundRecord
from fedsim.lab.store.summary import Course, Utility
from fedsim.models import ModelAdapter
from fedsim.rng import stream
from fedsim.training import Examples
from fedsim.types import Parameters

BATCH = 32
_BEFORE: dict[Hashable, dict[str, float]] = {}  # one entry: what cells of a sweep start from
METRICS = {"classification": "accuracy", "causal-lm": "perplexity", "masked-lm": "perplexity"}


def utility(adapter: ModelAdapter, parameters: Parameters, held_out: Examples) -> dict[str, float]:
    """Return how good the model is on ``held_out``, by metric; first the task's own of ``METRICS``.

    Classification: ``accuracy``, ``f1`` (the mean over classes) in [0, 1], ``mcc`` (Matthews'
    correlation, CoLA's metric) in [-1, 1]. The others: ``perplexity``, exp of the mean negative
    log-likelihood, in nats, over all predicted tokens; the masks of masked-lm are always the same.
    Where no token is predicted (all of them are unknown, say) there is none, and {} is returned.
    """
    if adapter.spec.task == "classification":
        return classified(confusion(adapter, parameters, held_out))
    found = perplexity(adapter, parameters, held_out)
    return {} if found is None else {"perplexity": found}


def utility_before(
    adapter: ModelAdapter, parameters: Parameters, held_out: Examples, checksum: str
) -> dict[str, float]:
    """Return :func:`utility` of the weights with that checksum; asked again it is not measured."""
    same = (adapter.spec, adapter.device, checksum, held_out)
    if same not in _BEFORE:
        measured = utility(adapter, parameters, held_out)
        _BEFORE.clear()
        _BEFORE[same] = measured
    return dict(_BEFORE[same])


@torch.no_grad()
def confusion(adapter: ModelAdapter, parameters: Parameters, held_out: Examples) -> Tensor:
    """Return how many examples of each class (rows) were taken for each class: (C, C), float64."""
    module = adapter.load(parameters)
    module.train(False)
    counts = torch.zeros(adapter.spec.num_labels, adapter.spec.num_labels, dtype=torch.float64)
    for some in batches(held_out):
        batch = adapter.batch(some.sequences, some.labels, stream(0, "utility"))
        guesses = module(**batch).logits.argmax(-1).cpu()
        places = (batch["labels"].cpu(), guesses)
        counts.index_put_(places, torch.ones(len(some), dtype=counts.dtype), accumulate=True)
    return counts


def classified(counts: Tensor) -> dict[str, float]:
    """Return the metrics of a confusion matrix (C, C).

    ``mcc`` is Gorodkin's R_K (Computational Biology and Chemistry 28, 2004), of two classes
    Matthews' own; it and ``f1`` are 0 where they would be 0 / 0.
    """
    total, right = counts.sum(), counts.diag()
    true, guessed = counts.sum(1), counts.sum(0)
    spread = (total**2 - true.square().sum()) * (total**2 - guessed.square().sum())
    above = total * right.sum() - (true * guessed).sum()
    f1 = 2 * right / (true + guessed).clamp_min(1.0)
    return {
        "accuracy": (right.sum() / total).item(),
        "f1": f1.mean().item(),
        "mcc": (above / spread.sqrt()).item() if spread > 0 else 0.0,
    }


@torch.no_grad()
def perplexity(adapter: ModelAdapter, parameters: Parameters, held_out: Examples) -> float | None:
    """Return exp of the mean negative log-likelihood over all predicted tokens, in nats.

    None: no token is predicted.
    """
    module = adapter.load(parameters)
    module.train(False)
    generator = stream(0, "utility")
    total, count = 0.0, 0
    for some in batches(held_out):
        batch = adapter.batch(some.sequences, some.labels, generator)
        labels = batch["labels"][:, 1:] if adapter.causal else batch["labels"]
        predicted = int((labels >= 0).sum())
        if not predicted:  # the loss is 0 / 0
            continue
        total += module(**batch).loss.item() * predicted
        count += predicted
    return math.exp(min(total / count, 700.0)) if count else None


def batches(examples: Examples) -> list[Examples]:
    """Return ``examples`` in parts of at most ``BATCH``."""
    starts = range(0, len(examples), BATCH)
    return [examples.take(list(range(len(examples)))[start : start + BATCH]) for start in starts]


def course(task: str, rounds: Sequence[RoundRecord]) -> Utility | None:
    """Return summary.json's ``utility``; None: not every round measured it."""
    measured = [record.measures for record in rounds if record.measures is not None]
    if len(measured) < len(rounds):
        return None
    main = METRICS[task]
    if not measured or main not in measured[0]:
        return None
    columns = {
        name: Course(
            before=measured[0][name],
            after=measured[-1][name],
            per_round=[figures[name] for figures in measured[1:]],
        )
        for name in measured[0]
    }
    others = {name: column for name, column in columns.items() if name != main}
    return Utility(metric=main, **columns[main].as_dict(), others=others)
