"""Small random batches of every kind in which it is hard to say how often each text was there."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import torch
from common.victims import Victim, client_update, victim
from torch import Tensor

from fedsim.messages import Broadcast, Observation, Update
from fedsim.models import ModelAdapter, ModelSpec
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Tokens

BY_GRAPH = ("modernbert", "deberta-v2", "albert")  # encoders to which orders of a text look alike
POOL = 24  # texts that batches are drawn from, and that weights were trained on
STATES = ((0, 0.0), (2, 0.3), (10, 0.3), (40, 0.1))  # steps, rate: of trained weights
TRACE = 1e-6  # of the largest example's p - y
HEADS = (1.0, 1.0, 10.0, 100.0, 1000.0)
DELTAS: tuple[dict[str, Any], ...] = (
    {"learning_rate": 1.0},
    {"learning_rate": 1e-2},
    {"learning_rate": 1e-1, "local_epochs": 2},
    {"learning_rate": 1e-2, "mini_batch_size": 2},
)
TINY = 1e-5  # a rate so small that weights stay: a delta in float64 is then a sum of gradients


@dataclass(frozen=True)
class Batch:
    """One client's update, what is behind it, and of which kinds that is."""

    observation: Observation
    truth: tuple[Tokens, ...]
    kinds: tuple[str, ...]


class Scenes:
    """Makes the batches of a family, each from its own seed."""

    def __init__(self, family: str, seed: int) -> None:
        self.family, self.seed = family, seed
        other = {"gpt2": "causal-lm", "llama": "causal-lm", "bert": "masked-lm"}.get(family)
        tasks = ("classification", *filter(None, [other]))
        self.states = {task: self._states(task) for task in tasks}

    def _states(self, task: Any) -> list[Victim]:
        """Return the model at its first weights, and trained."""
        who = model_of(self.family, task)
        trained = []
        for steps, rate in STATES:
            weights = dict(who.parameters)
            examples = texts(who.adapter, self.seed)
            for step in range(steps):
                rows = torch.randperm(POOL, generator=stream(self.seed, "step", step))[:8].tolist()
                now = Victim(who.adapter, weights)
                update = client_update(
                    now, examples.take(rows), TrainingSettings(), torch.Generator()
                )
                weights = {name: w - rate * update.tensors[name] for name, w in weights.items()}
            trained.append(Victim(who.adapter, weights))
        return trained

    def batch(self, index: int) -> Batch:
        """Return batch number ``index``."""
        draw = Draw(stream(self.seed, "sure", self.family, index))
        task = draw.one(list(self.states)) if draw.chance(0.6) else "classification"
        state = draw.below(len(STATES)) if draw.chance(0.4) else 0
        who, kinds = self.states[task][state], [task]
        kinds += ["trained"] * (state > 0)
        weights = dict(who.parameters)
        if task == "classification" and draw.chance(0.6):
            scale = draw.one(HEADS)
            name = who.adapter.ending()[1] + ".weight"
            weights[name] = scale * weights[name]
            kinds += [f"head x {scale:g}"] * (scale > 1)
        sequences, labels, shapes = shape(who.adapter, texts(who.adapter, self.seed), draw)
        kinds += shapes
        if self.family in BY_GRAPH:
            sequences, labels = with_siblings(who.adapter, sequences, labels, draw)
            kinds += other_orders(sequences)
        if draw.chance(0.05):
            kinds += make_twins(who.adapter, weights, sequences, draw)
        elif task == "causal-lm" and draw.chance(0.1):
            kinds += make_head_twins(who.adapter, weights, sequences, draw)
        training = TrainingSettings()
        small = draw.chance(0.05)
        if small:
            training = TrainingSettings(
                algorithm="fedavg", mini_batch_size=1 + draw.below(3), learning_rate=TINY
            )
            kinds += ["small delta"]
        elif draw.chance(0.1):
            chosen = draw.one(DELTAS)
            training = TrainingSettings(
                algorithm="fedavg", **{"mini_batch_size": len(sequences), **chosen}
            )
            kinds += ["delta"]
        examples = Examples(sequences=sequences, labels=labels)
        client = Victim(who.adapter, weights)
        generator = stream(self.seed, "training", index)
        update = (small_steps if small else client_update)(client, examples, training, generator)
        if untold(client, examples) or "twins" in " ".join(kinds):
            kinds += ["untold"]
        told = training.as_config() if draw.chance(0.7) else {}
        broadcast = Broadcast(round=1, parameters=weights, config=told)
        observation = Observation(model=who.adapter, broadcast=broadcast, update=update)
        return Batch(observation, sequences, tuple(kinds))


def model_of(family: str, task: Any) -> Victim:
    """Return the tiny model of a family at its first weights."""
    if family not in BY_GRAPH:
        return victim(ModelSpec(name=f"builtin:{family}-tiny", task=task))
    from dager.architectures import architectures, built  # not of a parent that has no graphs

    config, tokenizer, _ = architectures()[family]
    with tempfile.TemporaryDirectory() as folder:
        return built(Path(folder), config, tokenizer, by_graph=False)


def untold(who: Victim, examples: Examples) -> bool:
    """Return whether other texts than a batch's, as many, give its update but for rounding.

    Of a classifier's, if an example fits its label to ``TRACE``: what it adds is the rounding of
    the others. Of a next-token batch, if all texts repeat: a text of one token has no loss.
    """
    if who.adapter.spec.task == "masked-lm":
        return True  # other tokens may stand where one was masked
    if who.adapter.spec.task == "causal-lm":
        often = [times for text, times in Counter(examples.sequences).items() if len(text) > 1]
        return gcd(*often) > 1 or sum(often) < len(examples)
    _, _, logits = who.adapter.decisions(who.parameters, examples.sequences)
    wrong = 1 - logits.cpu().double().softmax(dim=1)
    sizes = [float(row[label or 0]) for row, label in zip(wrong, examples.labels, strict=True)]
    return min(sizes) < TRACE * max(sizes) or max(sizes) < TRACE


class Draw:
    """Chances of a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def below(self, count: int) -> int:
        """Return a number in [0, count)."""
        return int(torch.randint(count, (1,), generator=self._generator))

    def one(self, of: Sequence[Any]) -> Any:
        """Return one ``of`` several."""
        return of[self.below(len(of))]

    def chance(self, share: float) -> bool:
        """Return whether what happens in that ``share`` of cases does."""
        return bool(torch.rand((), generator=self._generator) < share)


def texts(adapter: ModelAdapter, seed: int) -> Examples:
    """Return the texts that batches are drawn from: random tokens, one to seven of each."""
    generator, sequences = stream(seed, "texts"), []
    ordinary = [token for token in range(adapter.vocabulary) if token not in adapter.special]
    for row in range(POOL):
        rows = torch.randint(len(ordinary), (2 + row % 6,), generator=generator).tolist()
        sequences.append((*adapter.prefix, *(ordinary[r] for r in rows), *adapter.suffix))
    return Examples(sequences=tuple(sequences), labels=tuple(row % 2 for row in range(POOL)))


def shape(
    adapter: ModelAdapter, pool: Examples, draw: Draw
) -> tuple[tuple[Tokens, ...], tuple[int, ...], list[str]]:
    """Return a batch's sequences and labels, and of which kinds it is."""
    rows = [draw.below(POOL) for _ in range(1 + draw.below(4))]
    sequences = [pool.sequences[row] for row in rows]
    labels = [int(pool.labels[row] or 0) if draw.chance(0.7) else draw.below(2) for row in rows]
    start, end = len(adapter.prefix), len(adapter.suffix)
    if draw.chance(0.4):
        for _ in range(1 + draw.below(3)):
            place = draw.below(len(sequences))
            sequences.append(sequences[place])
            labels.append(labels[place] if draw.chance(0.5) else 1 - labels[place])
    if draw.chance(0.3):
        whole = draw.one(sequences)
        body = whole[start : len(whole) - end]
        cut = body[: 1 + draw.below(max(1, len(body) - 1))]
        sequences.append((*adapter.prefix, *cut, *adapter.suffix))
        labels.append(draw.below(2))
    if draw.chance(0.2):
        token = draw.one([t for t in range(9, adapter.vocabulary) if t not in adapter.special])
        sequences.append((*adapter.prefix, token, *adapter.suffix))
        labels.append(draw.below(2))
    if adapter.spec.task == "causal-lm" and not any(len(tokens) > 1 for tokens in sequences):
        sequences[0] = (*sequences[0], 100)  # no loss at all else
    return tuple(sequences), tuple(labels), kinds_of(adapter, sequences, labels)


def with_siblings(
    adapter: ModelAdapter, sequences: tuple[Tokens, ...], labels: tuple[int, ...], draw: Draw
) -> tuple[tuple[Tokens, ...], tuple[int, ...]]:
    """Return a batch with another order of one of its texts, or a token again within one."""
    start, end = len(adapter.prefix), len(adapter.suffix)
    made, told = list(sequences), list(labels)
    if draw.chance(0.4):
        whole = draw.one(made)
        body = list(whole[start : len(whole) - end])
        one, other = draw.below(len(body)), draw.below(len(body))
        body[one], body[other] = body[other], body[one]
        made.append((*adapter.prefix, *body, *adapter.suffix))
        told.append(draw.below(2))
    if draw.chance(0.2):
        place = draw.below(len(made))
        body = list(made[place][start : len(made[place]) - end])
        body.insert(draw.below(len(body) + 1), draw.one(body))
        made[place] = (*adapter.prefix, *body, *adapter.suffix)
    return tuple(made), tuple(told)


def other_orders(sequences: Sequence[Tokens]) -> list[str]:
    """Return the kind of a batch that holds two orders of the same tokens, if it does."""
    distinct = set(sequences)
    return ["other orders"] * (len({tuple(sorted(tokens)) for tokens in distinct}) < len(distinct))


def kinds_of(
    adapter: ModelAdapter, sequences: Sequence[Tokens], labels: Sequence[int]
) -> list[str]:
    """Return of which kinds a batch is, by its texts."""
    around, end = len(adapter.prefix) + len(adapter.suffix), len(adapter.suffix)
    distinct = set(sequences)
    pairs = set(zip(sequences, labels, strict=True))
    bodies = [tokens[: len(tokens) - end] for tokens in distinct]
    begun = any(a != b and b[: len(a)] == a for a in bodies for b in bodies)
    kinds = ["duplicates"] * (len(distinct) < len(sequences)) + ["prefixes"] * begun
    kinds += ["opposite labels"] * (len(pairs) > len(distinct))
    return kinds + ["one token"] * any(len(tokens) - around == 1 for tokens in distinct)


def make_twins(
    adapter: ModelAdapter, weights: dict[str, Any], sequences: Sequence[Tokens], draw: Draw
) -> list[str]:
    """Have another token embedded as one of the batch's is."""
    ends = ("wte.weight", "embed_tokens.weight", "tok_embeddings.weight", "word_embeddings.weight")
    (name,) = {name for name in weights if name.endswith(ends)}
    whole = draw.one(sequences)
    token = draw.one(whole[len(adapter.prefix) : len(whole) - len(adapter.suffix)])
    weights[name] = twinned(weights[name], token, draw)
    return ["twins"]


def make_head_twins(
    adapter: ModelAdapter, weights: dict[str, Any], sequences: Sequence[Tokens], draw: Draw
) -> list[str]:
    """Have the head, and an embedding that is tied to it, take another token for a last one."""
    name = adapter.ending()[1] + ".weight"
    name = name if name in weights else "transformer.wte.weight"
    weights[name] = twinned(weights[name], draw.one(sequences)[-1], draw)
    return ["head twins"]


def twinned(rows: Tensor, token: int, draw: Draw) -> Tensor:
    """Return ``rows`` (V, D) with that of some other token being the row of ``token``."""
    copied = rows.clone()
    other = draw.below(len(rows) - 1)
    copied[other + (other >= token)] = rows[token]
    return copied


def small_steps(
    who: Victim, examples: Examples, training: TrainingSettings, generator: torch.Generator
) -> Update:
    """Return the float64 delta of an epoch whose steps are all at the weights that were sent."""
    order = torch.randperm(len(examples), generator=generator)
    steps = [examples.take(rows.tolist()) for rows in order.split(training.mini_batch_size)]
    if who.adapter.spec.task == "causal-lm":  # a step without a loss moves nothing
        steps = [step for step in steps if any(len(tokens) > 1 for tokens in step.sequences)]
    gradients = [client_update(who, step, TrainingSettings(), generator).tensors for step in steps]
    delta = {
        name: -training.learning_rate * torch.stack([g[name].double() for g in gradients]).sum(0)
        for name in gradients[0]
    }
    return Update(tensors=delta, kind="delta", num_examples=len(examples))
