"""A small language model of public text, trained in minutes: what an attack takes for fluent.

It must not be made of the clients' own texts: it would then know them, and an attack's score would
say nothing. Train it on another data set, or on texts that no client holds.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from fedsim.errors import BadInput, RunFailed
from fedsim.files import draft_folder, drop_drafts, make_directory, write_json
from fedsim.rng import global_stream, stream
from fedsim.types import Tokens

FULL = 4096  # tokens up to which every one is compared with; beyond, SAMPLED at a time
SAMPLED = 2048
EVERY = 20  # a text in so many is held out
HELD_OUT = 256  # texts whose perplexity is told, at most


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """The size of the model and how long it is trained."""

    width: int = 128
    layers: int = 2
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 2e-3
    max_length: int = 48  # tokens; the rest of a text is cut off
    seed: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0 and name != "seed":
                raise BadInput(f"--{name.replace('_', '-')} must be > 0, got {value}")
        if self.seed < 0:
            raise BadInput(f"--seed must be >= 0, got {self.seed}")

    @property
    def heads(self) -> int:
        """How many heads there are: about 32 numbers each, and the width is a multiple of them."""
        most = max(1, self.width // 32)
        return next(one for one in range(most, 0, -1) if self.width % one == 0)


def train_prior(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    held_out: Sequence[str],
    settings: PriorSettings,
    say: Callable[[str], None],
) -> tuple[GPT2LMHeadModel, dict[str, float]]:
    """Return a causal language model of ``texts``, and its perplexities.

    Its loss compares each token with SAMPLED others where there are many, their share of the
    partition function scaled up to all (Bengio & Senecal, AISTATS 2003).
    """
    rows = encoded(tokenizer, texts, settings.max_length)
    if not rows:
        raise BadInput("--data: no text of two tokens or more to learn from")
    with global_stream(settings.seed, "prior"):
        model = GPT2LMHeadModel(_config(tokenizer, settings))
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=steps, pct_start=0.05
    )
    generator, step, mean = stream(settings.seed, "prior", "order"), 0, 0.0
    model.train()
    for epoch in range(settings.epochs):
        order = torch.randperm(len(rows), generator=generator).tolist()
        for start in range(0, len(order), settings.batch_size):
            some = [rows[row] for row in order[start : start + settings.batch_size]]
            loss = _loss(model, some, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            mean = loss.item() if not step else 0.98 * mean + 0.02 * loss.item()
            step += 1
            say(f"epoch {epoch + 1}, step {step}/{steps}: {mean:.2f} nats a token")
    model.train(False)
    figures = {"texts": float(len(rows)), "steps": float(steps)}
    for name, some in (("seen", rows), ("held_out", encoded(tokenizer, held_out, 64))):
        if some:
            figures[f"perplexity_{name}"] = perplexity(model, some[:HELD_OUT])
    return model, figures


def encoded(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> list[Tokens]:
    """Return ``texts`` as the clients' tokens, special ones included; those with a loss."""
    if not texts:
        return []
    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return [tuple(one) for one in ids if len(one) > 1]


@torch.no_grad()
def perplexity(model: GPT2LMHeadModel, rows: Sequence[Tokens]) -> float:
    """Return the perplexity of ``rows``, over all of the vocabulary."""
    nats, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row])
        logits = model(input_ids=ids).logits[0, :-1]
        nats += float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += len(row) - 1
    return float(torch.tensor(nats / count).exp())


def save_prior(
    folder: Path, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, record: dict[str, Any]
) -> None:
    """Write the model, its tokenizer and ``record`` to ``folder``: all or nothing."""
    make_directory(folder.parent, wanted=folder)
    drop_drafts(folder.parent, deep=False)
    try:
        with draft_folder(folder) as draft:
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            write_json(draft / "prior.json", record)
            os.replace(draft, folder)
    except OSError as error:
        raise RunFailed(f"could not write {folder}: {error}") from error


def _config(tokenizer: PreTrainedTokenizerBase, settings: PriorSettings) -> GPT2Config:
    around = [one for one in (tokenizer.bos_token_id, tokenizer.cls_token_id) if one is not None]
    ends = [one for one in (tokenizer.eos_token_id, tokenizer.sep_token_id) if one is not None]
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=512,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        bos_token_id=around[0] if around else None,
        eos_token_id=ends[0] if ends else None,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def _loss(model: GPT2LMHeadModel, rows: Sequence[Tokens], generator: torch.Generator) -> Tensor:
    """Return the mean negative log-likelihood of the next tokens, in nats."""
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = True
    states = model.transformer(input_ids=ids).last_hidden_state[:, :-1][mask[:, 1:]]  # (N, D)
    targets = ids[:, 1:][mask[:, 1:]]  # (N,)
    words: Tensor = model.transformer.wte.weight
    if len(words) <= FULL:
        return functional.cross_entropy(states @ words.T, targets)
    return sampled_loss(states, words, targets, generator)


def sampled_loss(
    states: Tensor, words: Tensor, targets: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the cross-entropy of ``targets`` (N,), the partition function estimated.

    It is exact over the tokens that are a target in the batch; of the others SAMPLED are drawn,
    without replacement, and stand for all.
    """
    asked = torch.unique(targets)
    others = torch.ones(len(words), dtype=torch.bool)
    others[asked] = False
    rest = others.nonzero().flatten()
    drawn = rest[torch.randperm(len(rest), generator=generator)[:SAMPLED]]
    chosen = torch.cat([asked, drawn])
    logits = states @ words[chosen].T  # (N, C)
    scale = torch.zeros(len(chosen))
    scale[len(asked) :] = torch.log(torch.tensor(len(rest) / max(1, len(drawn))))
    return functional.cross_entropy(logits + scale, torch.searchsorted(asked, targets))
