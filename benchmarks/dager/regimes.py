"""Updates of every kind in which one of DAGER's numbers acts: small, so that each can be moved."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from common.victims import (
    Victim,
    client_update,
    gpt2,
    gradient,
    minilm,
    observation,
    plain,
    pool,
    stories,
    victim,
)
from transformers import GPT2Config

from clients.corpus import clinic
from defenses.quantize import Quantize
from fedsim.messages import Observation, Update
from fedsim.models import ModelSpec
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Tokens

Batch = tuple[Observation, tuple[Tokens, ...]]  # what the server sees, and the truth
Change = Callable[[Victim, Update], Update]
TINY = ("gpt2", "llama", "bert")
RANK = 96  # LoRA's, of 192 dimensions
STEP = 0.1  # of the server, before LoRA's second round


@dataclass(frozen=True, kw_only=True)
class Regime:
    """Some updates of one kind.

    Attributes:
        victim: makes the model.
        batches: how many updates.
        size: sentences in each.
        data: a data set's name; "clinic": the built-in corpus.
        longest: tokens of a sentence, at most.
        training: the client's settings; a gradient without any.
        change: what becomes of the update before it is sent.
        sizes: how often each sentence of a batch occurs; () is once.
        halved: sentences of a batch that begin another, as its first half.
        later: the server has made a step since the weights were drawn.
    """

    victim: Callable[[], Victim]
    batches: int
    size: int
    data: str = "clinic"
    longest: int = 64
    training: dict[str, Any] | None = None
    change: Change | None = None
    sizes: tuple[int, ...] = ()
    halved: int = 0
    later: bool = False

    def make(self, seed: int) -> Iterator[Batch]:
        """Yield the updates, and what is behind them."""
        who = self.victim()
        everything = sentences(who, self.data, self.longest)
        if self.later:
            first = gradient(who, everything.take(list(range(400, 400 + self.size))))
            moved = {
                name: weight - STEP * first.tensors[name] if name in first.tensors else weight
                for name, weight in who.parameters.items()
            }
            who = Victim(who.adapter, moved)
        order = torch.randperm(len(everything), generator=stream(seed, "regime", self.data))
        for index in range(self.batches):
            rows = order[index * self.size : (index + 1) * self.size].tolist()
            examples = self._shaped(everything.take(rows))
            chosen = self.training or {}
            settings = TrainingSettings(**chosen)
            update = client_update(who, examples, settings, stream(seed, "training", index))
            if self.change is not None:
                update = self.change(who, update)
            yield observation(who, update), examples.sequences

    def _shaped(self, examples: Examples) -> Examples:
        """Return ``examples``, some of them more than once, some of them begun again."""
        times = self.sizes or (1,) * len(examples)
        rows = [row for row, count in enumerate(times) for _ in range(count)]
        many = examples.take(rows)
        begun = tuple(ids[: len(ids) // 2] for ids in examples.sequences[: self.halved])
        labels = (*many.labels, *(0 for _ in begun))
        return Examples(sequences=(*many.sequences, *begun), labels=labels)


def sentences(who: Victim, data: str, longest: int) -> Examples:
    """Return the different sentences of ``data`` as token ids, labels in turn for the clinic's."""
    if data != "clinic":
        return pool(who.adapter, data).only(lambda ids: 3 <= len(ids) <= longest).examples
    encoded = who.adapter.tokenizer([text for text, _ in clinic()])["input_ids"]
    different = tuple(
        dict.fromkeys(tuple(ids) for ids in encoded if len(plain(who.adapter, ids)) >= 3)
    )
    return Examples(sequences=different, labels=tuple(row % 2 for row in range(len(different))))


def tiny(family: str, **fields: Any) -> Callable[[], Victim]:
    """Return a maker of the tiny preset of ``family``."""
    return lambda: victim(ModelSpec(name=f"builtin:{family}-tiny", **fields))


def wide() -> Victim:
    """Return a GPT-2 of two blocks of width 512 with random weights: its span is of a part."""
    with tempfile.TemporaryDirectory() as folder:
        GPT2Config(
            vocab_size=2048, n_embd=512, n_layer=2, n_head=8, bos_token_id=0, eos_token_id=0
        ).save_pretrained(folder)
        return victim(ModelSpec(name=folder, tokenizer="builtin:gpt2-tiny", weights="random"))


def cast(dtype: Any) -> Change:
    """Return a change of the update to ``dtype``, and back to floats."""
    defense = Quantize(dtype=dtype)

    def change(_: Victim, update: Update) -> Update:
        tensors = defense.protect(update.tensors, torch.Generator().manual_seed(0))
        return Update(tensors=tensors, kind=update.kind, num_examples=update.num_examples)

    return change


def noise(share: float) -> Change:
    """Return a change that adds noise of ``share`` of each tensor's largest entry."""

    def change(_: Victim, update: Update) -> Update:
        generator = torch.Generator().manual_seed(0)
        tensors = {
            name: tensor
            + share * tensor.abs().max() * torch.randn(tensor.shape, generator=generator)
            for name, tensor in update.tensors.items()
        }
        return Update(tensors=tensors, kind=update.kind, num_examples=update.num_examples)

    return change


def attention_alone(who: Victim, update: Update) -> Update:
    """Return the update of q, k and v of the first two blocks alone, as the paper has it."""
    kept = {projection.name for layer in (0, 1) for projection in who.adapter.projections(layer)}
    tensors = {name: tensor for name, tensor in update.tensors.items() if name in kept}
    return Update(tensors=tensors, kind=update.kind, num_examples=update.num_examples)


def fedavg(**settings: Any) -> dict[str, Any]:
    """Return local SGD's settings: two epochs in mini-batches of two, unless told."""
    chosen = {"mini_batch_size": 2, "local_epochs": 2, "learning_rate": 1e-3}
    return {"algorithm": "fedavg", **chosen, **settings}


HARD = fedavg(optimizer="momentum", weight_decay=0.01, local_epochs=4)
FAR = fedavg(mini_batch_size=1, local_epochs=5, learning_rate=1e-2)
REGIMES: dict[str, Regime] = {
    "gpt2-tiny gradient": Regime(victim=tiny("gpt2"), batches=1, size=4),
    "gpt2-tiny, repeated and begun": Regime(
        victim=tiny("gpt2"), batches=1, size=3, sizes=(3, 1, 2), halved=2
    ),
    "gpt2-tiny, q k v alone": Regime(
        victim=tiny("gpt2"), batches=1, size=4, change=attention_alone
    ),
    "gpt2-tiny float16": Regime(victim=tiny("gpt2"), batches=1, size=4, change=cast("float16")),
    "gpt2-tiny bfloat16": Regime(victim=tiny("gpt2"), batches=2, size=2, change=cast("bfloat16")),
    "gpt2-tiny int8": Regime(victim=tiny("gpt2"), batches=2, size=2, change=cast("int8")),
    "gpt2-tiny noise 1e-3": Regime(victim=tiny("gpt2"), batches=1, size=2, change=noise(1e-3)),
    "gpt2-tiny, too many prefixes": Regime(victim=tiny("gpt2"), batches=1, size=24),
    "gpt2-tiny FedAvg": Regime(victim=tiny("gpt2"), batches=1, size=4, training=fedavg()),
    "gpt2-tiny FedAvg, momentum, decay": Regime(
        victim=tiny("gpt2"), batches=1, size=4, training=HARD
    ),
    "gpt2-tiny FedAvg, 20 steps of 1e-2": Regime(
        victim=tiny("gpt2"), batches=1, size=4, training=FAR
    ),
    "gpt2-tiny FedAvg, repeated and begun": Regime(
        victim=tiny("gpt2"), batches=1, size=3, sizes=(2, 1, 1), halved=1, training=fedavg()
    ),
    "gpt2-tiny LoRA": Regime(victim=tiny("gpt2", lora_rank=RANK), batches=1, size=2),
    "gpt2-tiny LoRA FedAvg": Regime(
        victim=tiny("gpt2", lora_rank=RANK), batches=2, size=2, training=fedavg()
    ),
    "gpt2-tiny causal-lm": Regime(victim=tiny("gpt2", task="causal-lm"), batches=1, size=4),
    "gpt2-tiny causal-lm, repeated": Regime(
        victim=tiny("gpt2", task="causal-lm"), batches=1, size=3, sizes=(3, 1, 2), halved=1
    ),
    "gpt2-tiny causal-lm int8": Regime(
        victim=tiny("gpt2", task="causal-lm"), batches=1, size=2, change=cast("int8")
    ),
    "llama-tiny gradient": Regime(victim=tiny("llama"), batches=1, size=4),
    "llama-tiny bfloat16": Regime(victim=tiny("llama"), batches=1, size=2, change=cast("bfloat16")),
    "llama-tiny int8": Regime(victim=tiny("llama"), batches=2, size=2, change=cast("int8")),
    "llama-tiny FedAvg": Regime(victim=tiny("llama"), batches=1, size=4, training=fedavg()),
    "llama-tiny LoRA, round 2": Regime(
        victim=tiny("llama", lora_rank=RANK), batches=2, size=2, later=True
    ),
    "llama-tiny causal-lm": Regime(victim=tiny("llama", task="causal-lm"), batches=1, size=4),
    "stories260K (trained) gradient": Regime(
        victim=stories, batches=1, size=2, data="cola", longest=16
    ),
    "bert-tiny gradient": Regime(victim=tiny("bert"), batches=1, size=4),
    "bert-tiny, repeated": Regime(victim=tiny("bert"), batches=1, size=2, sizes=(3, 1)),
    "MiniLM (trained) gradient": Regime(victim=minilm, batches=1, size=3, data="cola"),
    "MiniLM (trained) bfloat16": Regime(
        victim=minilm, batches=1, size=2, data="cola", longest=12, change=cast("bfloat16")
    ),
    "MiniLM (trained) FedAvg": Regime(
        victim=minilm, batches=1, size=2, data="cola", longest=12,
        training=fedavg(learning_rate=1e-2),
    ),
    "GPT-2 of width 512 gradient": Regime(victim=wide, batches=1, size=4),
    "GPT-2 of width 512 FedAvg": Regime(victim=wide, batches=1, size=4, training=fedavg()),
    "GPT-2 of width 512 int8": Regime(victim=wide, batches=1, size=2, change=cast("int8")),
    "GPT-2 at real size gradient": Regime(victim=gpt2, batches=1, size=4, data="rotten_tomatoes"),
}  # fmt: skip
