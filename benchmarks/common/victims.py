"""What measurements share: models, real sentences, clients' updates."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common.places import DATA, need_data
from transformers import BertConfig, LlamaConfig

from clients.data import DataSettings, load_corpus
from fedsim.messages import Broadcast, Observation, Update
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Parameters, Tokens

try:
    from fedsim.local import LocalTraining
except ImportError:  # a checkout from before it was moved, which reads the same batches
    from clients.training import LocalTraining  # type: ignore[no-redef,import-not-found]

MINILM = DATA / "models" / "all-MiniLM-L6-v2-fp16"
SHORT = 3  # tokens below which a text, special ones included, has nothing to order
DATASETS = ("cola", "sst2", "rotten_tomatoes")


@dataclass(frozen=True)
class Victim:
    """A model and the weights that the server sends."""

    adapter: ModelAdapter
    parameters: Parameters


def victim(spec: ModelSpec) -> Victim:
    """Return the model of ``spec`` at its first weights."""
    adapter = load_adapter(spec)
    return Victim(adapter, adapter.initial_parameters())


def gpt2(**fields: Any) -> Victim:
    """Return GPT-2 at its real size with its own tokenizer and random weights."""
    need_data()
    tokenizer = str(DATA / "tokenizers" / "gpt2")
    return victim(ModelSpec(name="builtin:gpt2", tokenizer=tokenizer, weights="random", **fields))


def stories(**fields: Any) -> Victim:
    """Return the trained LLaMA of 260,032 parameters: width 64, 512 tokens."""
    need_data()
    return victim(ModelSpec(name=str(DATA / "models" / "stories260K-hf"), **fields))


def random_llama(
    folder: str | Path, *, width: int = 1024, layers: int = 4, **fields: Any
) -> Victim:
    """Return a LLaMA with 32,000 tokens and random weights; its config is written to ``folder``."""
    need_data()
    LlamaConfig(
        vocab_size=32_000,
        max_position_embeddings=512,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        bos_token_id=1,
        eos_token_id=2,
    ).save_pretrained(folder)
    tokenizer = str(DATA / "tokenizers" / "llama")
    return victim(ModelSpec(name=str(folder), tokenizer=tokenizer, weights="random", **fields))


def minilm(layers: int = 6, **fields: Any) -> Victim:
    """Return the trained encoder's first ``layers`` layers under a new random head."""
    need_data()
    folder = Path(tempfile.mkdtemp()) / f"minilm-{layers}"
    folder.mkdir()
    for path in MINILM.iterdir():
        shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "num_hidden_layers": layers})
    (folder / "config.json").write_text(text, encoding="utf-8")
    return victim(ModelSpec(name=str(folder), **fields))


def bert_base() -> Victim:
    """Return BERT-base with its own tokenizer and random weights."""
    need_data()
    folder = Path(tempfile.mkdtemp())
    BertConfig().save_pretrained(folder)
    tokenizer = str(DATA / "tokenizers" / "bert-base-uncased")
    return victim(ModelSpec(name=str(folder), tokenizer=tokenizer, weights="random"))


def with_head(who: Victim, deviation: float) -> Victim:
    """Return the classifier with its head drawn anew from N(0, deviation^2).

    The paper's code draws it with 1e-3, which makes gradients 20 times smaller than the families'
    own 0.02 does: figures that hang on noise or rounding compare with the paper's only then.
    """
    name = "score.weight"
    weight = who.parameters[name]
    drawn = deviation * torch.randn(weight.shape, generator=stream(1, "head"))
    return Victim(who.adapter, {**who.parameters, name: drawn})


# Sentences


@dataclass(frozen=True)
class Pool:
    """The different token sequences of a train split, in its order, with their labels."""

    name: str
    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    def only(self, keep: Callable[[Tokens], bool]) -> "Pool":
        """Return the sentences that ``keep`` accepts."""
        rows = [row for row, tokens in enumerate(self.examples.sequences) if keep(tokens)]
        return Pool(self.name, self.examples.take(rows))

    def draw(self, size: int, seed: int, index: int) -> Examples:
        """Return batch ``index`` of ``size`` sentences: no token sequence twice."""
        if size > len(self):
            raise SystemExit(f"{self.name} has only {len(self)} sentences for a batch of {size}")
        generator = stream(seed, "batch", self.name, size, index)
        return self.examples.take(torch.randperm(len(self), generator=generator)[:size].tolist())


def pool(adapter: ModelAdapter, name: str) -> Pool:
    """Return the sentences of ``name`` that carry text and have a loss, each once."""
    need_data()
    settings = DataSettings(name=name, path=str(DATA / "datasets" / name), evaluate=0)
    train = load_corpus(settings, seed=1).train
    encoded = adapter.tokenizer(list(train["text"]))["input_ids"]
    shortest = 2 if adapter.spec.task == "causal-lm" else 1
    labels: dict[Tokens, int | None] = {}
    for ids, label in zip(encoded, train["label"], strict=True):
        if len(plain(adapter, ids)) >= shortest:
            labels.setdefault(tuple(ids), int(label))
    return Pool(name, Examples(sequences=tuple(labels), labels=tuple(labels.values())))


def texts(who: Victim, name: str) -> Pool:
    """Return the sentences of ``name`` that have a token to find."""
    return pool(who.adapter, name).only(lambda tokens: len(tokens) >= SHORT)


def plain(adapter: ModelAdapter, tokens: Iterable[int]) -> Tokens:
    """Return ``tokens`` without special ones."""
    return tuple(token for token in tokens if token not in adapter.special)


def prefixes(sequences: Iterable[Tokens]) -> list[int]:
    """Return how many distinct prefixes of 1, 2, ... tokens there are: their sum is rank 1's."""
    distinct = {tokens[: end + 1] for tokens in sequences for end in range(len(tokens))}
    longest = max(map(len, distinct), default=0)
    counts = [0] * longest
    for one in distinct:
        counts[len(one) - 1] += 1
    return counts


# Updates


def client_update(
    who: Victim, examples: Examples, settings: TrainingSettings, generator: torch.Generator
) -> Update:
    """Return what a client sends: its gradient or delta, in the dtype of the wire."""
    tensors, _ = LocalTraining(who.adapter, settings)(who.parameters, examples, generator)
    dtype = getattr(torch, settings.wire_dtype)
    return Update(
        tensors={name: tensor.to("cpu", dtype) for name, tensor in tensors.items()},
        kind="gradient" if settings.algorithm == "fedsgd" else "delta",
        num_examples=len(examples),
    )


def gradient(who: Victim, examples: Examples) -> Update:
    """Return the batch's gradient: what a FedSGD client sends."""
    return client_update(who, examples, TrainingSettings(), torch.Generator())


def observation(who: Victim, update: Update) -> Observation:
    """Return what the attack sees."""
    broadcast = Broadcast(round=1, parameters=who.parameters)
    return Observation(model=who.adapter, broadcast=broadcast, update=update)
