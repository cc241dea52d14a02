"""What a model is trained on: batches, their masks, and the losses of their examples."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedsim.errors import BadInput
from fedsim.models.workspace import Workspace
from fedsim.types import Tokens

IGNORED = -100  # the label that transformers' losses leave out
MASKED_SHARE = 0.15  # Devlin et al., NAACL 2019, sec. 3.1: 15 % of the tokens; 80/10/10 of those


class Batches(Workspace):
    """A workspace that makes batches and runs them."""

    def batch(
        self, sequences: Sequence[Tokens], labels: Sequence[int | None], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return what the model's forward takes: right-padded ids, mask and the task's labels.

        Args:
            sequences: token ids, special tokens included; none empty.
            labels: one per sequence; read for classification only.
            generator: chooses the tokens to mask; read for masked-lm only.

        Returns:
            ``input_ids``, ``attention_mask`` (B, T), ``labels`` (B,) or (B, T): int64, on the
            adapter's device.
        """
        size = (len(sequences), max(map(len, sequences)))
        ids = torch.full(size, self.pad)  # (B, T)
        mask = torch.zeros(size, dtype=torch.int64)
        for row, tokens in enumerate(sequences):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        if self.spec.task == "classification":
            targets = torch.tensor(labels)
        elif self.spec.task == "causal-lm":
            starts = torch.tensor([self.response_start(tokens) for tokens in sequences])
            prompt = torch.arange(size[1]) < starts[:, None]
            targets = ids.masked_fill((mask == 0) | prompt, IGNORED)
        else:
            ids, targets = self._mask(ids, mask == 0, generator)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": targets}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def response_start(self, tokens: Tokens) -> int:
        """Return the first of ``tokens`` that the loss may be of; 0 where no marker stands in them.

        As trl's collator for completions has it: what follows the last time that the marker's own
        tokens stand there. A client's text without one is left out, as it has no response.
        """
        if not self.spec.response:
            return 0
        marker = self.marker
        for place in range(len(tokens) - len(marker), -1, -1):
            if tokens[place : place + len(marker)] == marker:
                return place + len(marker)
        return 0

    @functools.cached_property
    def marker(self) -> Tokens:
        """The fewest tokens that hold ``spec.response``, white space aside, within any text.

        What follows it may be part of them: of some tokenizers a colon and a line's end are one.
        """
        around = [(before, after) for before in ("a", "1.") for after in ("The", "1", "“so”")]
        texts = [f"{before}\n{self.spec.response}{after}" for before, after in around]
        encoded: Any = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        rows = [tuple(row) for row in encoded]
        marker = self._holding(rows[0], self.spec.response.strip())
        places = [range(len(row) - len(marker) + 1) for row in rows]
        within = [
            any(row[place : place + len(marker)] == marker for place in some)
            for row, some in zip(rows, places, strict=True)
        ]
        if not marker or not all(within):
            raise BadInput(
                f"data.response_only: the tokenizer has no tokens of its own for "
                f"{self.spec.response.strip()!r}"
            )
        return marker

    def _holding(self, tokens: Tokens, text: str) -> Tokens:
        """Return the fewest of ``tokens`` in a row that hold ``text``; () where none do."""

        def holds(first: int, end: int) -> bool:
            return text in str(self.tokenizer.decode(list(tokens[first:end])))

        end = next((end for end in range(len(tokens) + 1) if holds(0, end)), 0)
        first = max((first for first in range(end) if holds(first, end)), default=end)
        return tokens[first:end]

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return each example's own loss (B,): the mean over its predicted tokens, or its one.

        Only its own tokens count: every example gets positions of its own, which GPT-2 and BERT
        would look up once for all.
        """
        given = {name: tensor for name, tensor in batch.items() if name != "labels"}
        if self.positional and self.first_position is not None:
            places = torch.arange(given["input_ids"].shape[1], device=self.device)
            places = places + self.first_position
            given["position_ids"] = places.repeat(len(given["input_ids"]), 1)
        logits, labels = module(**given).logits, batch["labels"]  # (B, K) or (B, T, V)
        if self.spec.task == "classification":
            return nn.functional.cross_entropy(logits, labels, reduction="none")
        if self.spec.task == "causal-lm":
            logits, labels = logits[:, :-1], labels[:, 1:]
        each = nn.functional.cross_entropy(  # a row a token: twice as fast as (B, V, T)
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return each.view(labels.shape).sum(1) / self.predicted(batch)

    def predicted(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return how many tokens of each example the loss is the mean over, (B,); its one: 1."""
        labels = batch["labels"]
        if self.spec.task == "classification":
            return torch.ones_like(labels)
        if self.spec.task == "causal-lm":
            labels = labels[:, 1:]
        return (labels != IGNORED).sum(1)

    def _mask(
        self, ids: Tensor, padding: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        special = torch.isin(ids, torch.tensor(sorted(self.special))) | padding
        draw = torch.rand(ids.shape, generator=generator).masked_fill(special, 2.0)
        chosen = (draw < MASKED_SHARE) | (draw == draw.amin(dim=1, keepdim=True))  # at least one
        chosen &= ~special
        fate = torch.rand(ids.shape, generator=generator)
        noise = torch.randint(self.vocabulary, ids.shape, generator=generator)
        masked = ids.masked_fill(chosen & (fate < 0.8), cast(int, self.tokenizer.mask_token_id))
        masked = torch.where(chosen & (fate >= 0.9), noise, masked)
        return masked, ids.masked_fill(~chosen, IGNORED)

    def logits(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Return what the task's loss reads for ``embedded`` tokens, at the workspace's weights.

        Autograd runs through it, twice if need be, and no row touches another.

        Args:
            embedded: (N, T, D) in place of token embeddings.
            mask: (N, T) true where there is a token; a row's tokens come before its padding.

        Returns:
            (N, C) for classification, (N, T, V) otherwise.
        """
        whole: Any = self.module
        whole = whole.get_base_model() if self.spec.lora_rank else whole
        given: dict[str, Any] = {"inputs_embeds": embedded}
        if self.first_position is not None:
            places = torch.arange(mask.shape[1], device=mask.device) + self.first_position
            given["position_ids"] = places.expand(mask.shape)
        if not mask.all():
            given["attention_mask"] = mask.long()
        if self.causal:
            given["use_cache"] = False
        if self.causal and "classification" in self.heads and self.spec.task == "classification":
            states = whole.base_model(**given).last_hidden_state  # its own pooling reads padding
            last = mask.long().sum(dim=1) - 1
            rows = torch.arange(len(last), device=last.device)
            head = whole.get_submodule(self.heads["classification"])
            return cast(Tensor, head(states[rows, last]))
        return cast(Tensor, whole(**given).logits)
