"""Utility: how good the global model is on held-out text, beside how much its training leaks."""

import math

import torch

from fedsim.messages import Parameters
from fedsim.models import ModelAdapter
from fedsim.rng import stream
from fedsim.training import Examples

BATCH = 32
METRICS = {"classification": "accuracy", "causal-lm": "perplexity", "masked-lm": "perplexity"}


@torch.no_grad()
def utility(adapter: ModelAdapter, parameters: Parameters, held_out: Examples) -> float:
    """Return accuracy in [0, 1] (classification) or perplexity (the others) on ``held_out``.

    Perplexity is exp of the mean negative log-likelihood, in nats, over all predicted tokens; the
    masks of masked-lm are the same in every call.
    """
    module = adapter.load(parameters)
    module.train(False)
    generator = stream(0, "utility")
    total, count = 0.0, 0
    for start in range(0, len(held_out), BATCH):
        some = held_out.take(list(range(start, min(start + BATCH, len(held_out)))))
        batch = adapter.batch(some.sequences, some.labels, generator)
        output = module(**batch)
        if adapter.spec.task == "classification":
            total += (output.logits.argmax(-1) == batch["labels"]).sum().item()
            count += len(some)
        else:
            labels = batch["labels"][:, 1:] if adapter.causal else batch["labels"]
            predicted = int((labels >= 0).sum())
            total += output.loss.item() * predicted
            count += predicted
    mean = total / count
    return mean if adapter.spec.task == "classification" else math.exp(min(mean, 700.0))
