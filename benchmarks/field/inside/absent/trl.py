"""Stands where ``trl`` is not installed: its trainer of texts, on transformers' own Trainer.

What trl 0.8 does and this does: formats all rows at once, cuts each text at ``max_seq_length``,
and leaves all in front of the response's template out of the loss.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, Trainer

IGNORED = -100


class DataCollatorForCompletionOnlyLM(DataCollatorForLanguageModeling):
    """Pads a batch; labels are on what comes behind the last ``response_template`` alone."""

    def __init__(self, response_template: Sequence[int], tokenizer: Any) -> None:
        super().__init__(tokenizer=tokenizer, mlm=False)
        self.template = list(response_template)

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        """Return a batch with ``labels`` (B, T)."""
        batch: dict[str, Any] = super().torch_call(examples)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        for row, ids in enumerate(batch["input_ids"].tolist()):
            labels[row, : self._begins(ids)] = IGNORED
        return {**batch, "labels": labels}

    def _begins(self, ids: list[int]) -> int:
        """Return where the response begins; the end where there is none."""
        size = len(self.template)
        found = [at for at in range(len(ids)) if ids[at : at + size] == self.template]
        return found[-1] + size if found else len(ids)


class SFTTrainer(Trainer):
    """Trains on texts that ``formatting_func`` makes of the rows."""

    def __init__(
        self, *, model: torch.nn.Module, tokenizer: Any, args: Any, max_seq_length: int,
        train_dataset: Dataset, formatting_func: Callable[[Any], list[str]], data_collator: Any,
    ) -> None:  # fmt: skip
        texts = formatting_func(train_dataset[:])
        read = tokenizer(texts, truncation=True, max_length=max_seq_length)
        rows = Dataset.from_dict({k: read[k] for k in ("input_ids", "attention_mask")})
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=data_collator)
