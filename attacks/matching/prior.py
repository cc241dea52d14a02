"""How likely a text is: any causal language model, with the target's tokenizer or its own."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedsim.messages import Tokens
from fedsim.models import ModelAdapter

TOKENS_AT_ONCE = 1024  # whose shares of a vocabulary are held at once


def check_prior(path: str) -> None:
    """Raise ValueError where ``path`` is neither empty nor a directory with a language model."""
    if path and not (Path(path) / "config.json").is_file():
        raise ValueError(
            "prior must be a directory that holds a causal language model (fedsim train-prior "
            f"makes one), got {path!r}"
        )


class Prior:
    """A causal language model from a directory, asked about texts of ``model``'s tokens.

    Where its tokenizer is another one, a text is decoded and encoded again; its nats are then
    divided by the target's tokens all the same, so that one weight fits both.
    """

    def __init__(self, path: str, model: ModelAdapter) -> None:
        self._model, self._tokenizer = _load(path)
        self._target = model
        self.same = self._tokenizer.get_vocab() == model.tokenizer.get_vocab()

    @torch.no_grad()
    def nats(self, texts: Sequence[Tokens]) -> Tensor:
        """Return the negative log-likelihood of each text after its first token, in nats: (N,)."""
        known = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(known)}
        rows = [list(text) if self.same else self._again(text) for text in known]
        size = max(2, max(map(len, rows)))
        step = max(1, TOKENS_AT_ONCE // size)
        parts = [self._nats(rows[at : at + step], size) for at in range(0, len(rows), step)]
        return torch.cat(parts)[[place[text] for text in texts]]

    def _again(self, text: Tokens) -> list[int]:
        words = self._target.tokenizer.decode(list(text), skip_special_tokens=True)
        start = self._tokenizer.bos_token_id
        found = list(self._tokenizer(words)["input_ids"])
        return found if start is None or found[:1] == [start] else [start, *found]

    def _nats(self, rows: Sequence[list[int]], size: int) -> Tensor:
        ids = torch.zeros(len(rows), size, dtype=torch.int64)
        mask = torch.zeros(len(rows), size, dtype=torch.bool)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        logits = self._model(input_ids=ids).logits[:, :-1]  # (N, T - 1, V); padding comes last
        each = functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        return (each.view(len(rows), -1) * mask[:, 1:]).sum(dim=1)


@functools.lru_cache(maxsize=2)
def _load(path: str) -> tuple[Any, Any]:
    model: Any = AutoModelForCausalLM.from_pretrained(
        path, local_files_only=True, dtype=torch.float32
    )
    return model.eval(), AutoTokenizer.from_pretrained(path, local_files_only=True)
