"""How likely a text is: any causal language model, with the target's tokenizer or its own."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedsim.errors import UnsupportedObservation
from fedsim.models import ModelAdapter
from fedsim.types import Tokens

TOKENS_AT_ONCE = 1024  # whose shares of a vocabulary are held at once
FILES = {"weights": ("*.safetensors", "*.bin"), "tokenizer": ("tokenizer*", "vocab*")}

_UNREADABLE = (  # what the loaders raise on a broken file
    AttributeError, ImportError, LookupError, OSError, RuntimeError, SafetensorError, TypeError,
    ValueError,
)  # fmt: skip


def check_prior(path: str) -> None:
    """Raise ValueError where ``path`` is neither empty nor a directory with a language model."""
    if not path:
        return
    folder, wanted = Path(path), "prior must be a directory that holds a causal language model"
    if not (folder / "config.json").is_file():
        raise ValueError(f"{wanted} (fedsim train-prior makes one), got {path!r}")
    for part, patterns in FILES.items():
        if not any(file for pattern in patterns for file in folder.glob(pattern)):
            raise ValueError(f"{wanted}, but {path!r} holds no {part} ({' or '.join(patterns)})")
    try:
        kinds = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{wanted}, but the config.json in {path!r} names none") from error
    if not any(str(kind).endswith(("LMHeadModel", "ForCausalLM")) for kind in kinds or ()):
        raise ValueError(f"{wanted}, but {path!r} holds a {kinds}")


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
        most = getattr(self._model.config, "max_position_embeddings", size)
        if size > most:
            raise UnsupportedObservation(
                f"the prior reads texts of at most {most} of its tokens, got one of {size}"
            )
        step = max(1, TOKENS_AT_ONCE // size)
        parts = [self._nats(rows[at : at + step], size) for at in range(0, len(rows), step)]
        return torch.cat(parts)[[place[text] for text in texts]]

    def _again(self, text: Tokens) -> list[int]:
        words = self._target.tokenizer.decode(list(text), skip_special_tokens=True)
        start = self._tokenizer.bos_token_id
        ids = list(self._tokenizer(words)["input_ids"])
        return ids if start is None or ids[:1] == [start] else [start, *ids]

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
    """Return the model and the tokenizer in the directory ``path``; none of its code is run."""
    how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, output_loading_info=True, **how
        )
        model, told = loaded
        tokenizer = AutoTokenizer.from_pretrained(path, **how)
    except _UNREADABLE as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedObservation(f"the prior in {path!r} cannot be read: {line}") from error
    if told["missing_keys"]:
        raise UnsupportedObservation(
            f"the prior in {path!r} lacks weights, first {min(told['missing_keys'])!r}"
        )
    if len(tokenizer) > model.config.vocab_size:
        raise UnsupportedObservation(
            f"the prior in {path!r} knows {model.config.vocab_size} tokens, but its tokenizer has "
            f"{len(tokenizer)}"
        )
    if _looks_ahead(model.eval()):
        raise UnsupportedObservation(
            f"the prior in {path!r} reads a text both ways, so what it says of a text is no "
            "likelihood"
        )
    return model, tokenizer


@torch.no_grad()
def _looks_ahead(model: Any) -> bool:
    """Return whether a token changes what the model says before it."""
    first, second = (model(input_ids=torch.tensor([[0, last]])).logits[0, 0] for last in (0, 1))
    return not torch.allclose(first, second, atol=1e-5)
