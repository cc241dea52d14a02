"""What an attack knows or assumes of the batch's shape: how many texts, how long, which labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.reads import read_labels, read_lengths
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.types import Tokens

FREE = -1  # a place whose token is sought
MOST = 2**14  # tokens of a batch: more would run for days, and a client may state any number


@dataclass(frozen=True, kw_only=True)
class Frame:
    """B sequences of at most T tokens: which places are known, how the client's loss weighs them.

    Attributes:
        tokens: (B, T) int64: the known ids (special tokens, padding), FREE elsewhere.
        mask: (B, T) bool: true where there is a token, known or not.
        labels: (B,) int64 where the task has labels and they are known or inferred, else None.
        task: the model's.
        exact_lengths: the lengths were granted, or are plain from the update.
        notes: how each was come by, for the record.
    """

    tokens: Tensor
    mask: Tensor
    labels: Tensor | None
    task: str
    exact_lengths: bool
    notes: dict[str, bool | int | float]

    @property
    def free(self) -> Tensor:
        """(B, T) bool: the places whose tokens are sought."""
        return self.tokens == FREE

    def loss(self, logits: Tensor, targets: Tensor, rows: Sequence[int]) -> Tensor:
        """Return each sequence's part in the client's loss: (K, S).

        Args:
            logits: (K, S, C) or (K, S, T, V).
            targets: as ``Engine.factors`` takes them.
            rows: the S sequences.
        """
        negative = -logits.log_softmax(dim=-1)
        if self.task == "classification":
            if not targets.is_floating_point():
                targets = torch.nn.functional.one_hot(targets, logits.shape[-1])
            return (negative * targets).sum(dim=2) / len(self.mask)
        if self.task == "causal-lm":
            negative, targets = negative[:, :, :-1], targets[:, :, 1:]
            weights = self.mask[:, 1:] / self.mask[:, 1:].sum()
            if targets.is_floating_point():
                each = (negative * targets).sum(dim=-1)
            else:
                each = negative.gather(-1, targets[..., None])[..., 0]
            return (each * weights[list(rows)][:, : each.shape[-1]]).sum(dim=2)
        return (negative * targets).sum(dim=(2, 3))  # shares over all places sum to 1

    def part(self, row: int) -> float:
        """Return the weight of sequence ``row``'s own mean loss in the client's loss."""
        if self.task != "causal-lm":
            return 1.0 / len(self.mask)
        return float(self.mask[row, 1:].sum() / self.mask[:, 1:].sum())

    def sequences(self, ids: Tensor, suffix: Tokens) -> tuple[Tokens, ...]:
        """Return ``ids`` (B, T) as texts, each cut at its end, or where it says that it ends."""
        texts = []
        for row, mask in zip(ids.tolist(), self.mask, strict=True):
            tokens = row[: int(mask.sum())]
            if not self.exact_lengths and suffix and suffix[0] in tokens[:-1]:
                tokens = tokens[: tokens.index(suffix[0]) + 1]
            texts.append(tuple(tokens))
        return tuple(texts)


def find_frame(observation: Observation, generator: torch.Generator) -> Frame:
    """Return the batch's shape from what was granted, else from what the update tells.

    Raises:
        UnsupportedObservation: what was granted contradicts itself or the model, or what is needed
            is neither granted nor told.
    """
    model, granted = observation.model, observation.knowledge
    size = observation.update.num_examples if granted.batch_size is None else granted.batch_size
    if size < 1 and granted.batch_size is not None:
        raise UnsupportedObservation(f"nothing to find: knowledge.batch_size is {size}")
    if size < 1:
        raise UnsupportedObservation(
            "matching needs the batch size: grant knowledge.batch_size where the update does not "
            f"tell it, got num_examples = {size}"
        )
    lengths, exact = _lengths(observation, size)
    longest = max(lengths)
    if size * longest > MOST:
        raise UnsupportedObservation(
            f"matching takes batches of at most {MOST} tokens, got {size} examples of up to "
            f"{longest}; grant knowledge.batch_size where the client states too many"
        )
    tokens = torch.full((size, longest), FREE)
    mask = torch.zeros(size, longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask[row, :length] = True
        tokens[row, length:] = model.pad
        tokens[row, : len(model.prefix)] = torch.tensor(model.prefix, dtype=torch.int64)
        if exact and model.suffix:
            ends = torch.tensor(model.suffix, dtype=torch.int64)
            tokens[row, length - len(ends) : length] = ends
    labels = _labels(observation, size, mask, generator)
    return Frame(
        tokens=tokens.to(model.device),
        mask=mask.to(model.device),
        labels=None if labels is None else labels.to(model.device),
        task=model.spec.task,
        exact_lengths=exact,
        notes={
            "lengths_granted": granted.lengths is not None,
            "lengths_exact": exact,
            "labels_granted": granted.labels is not None,
            "labels_inferred": granted.labels is None and labels is not None,
        },
    )


def _lengths(observation: Observation, size: int) -> tuple[tuple[int, ...], bool]:
    model, granted = observation.model, observation.knowledge.lengths
    if granted is None:
        longest, plain = read_lengths(observation)
        return (longest,) * size, plain and size == 1
    around = len(model.prefix) + len(model.suffix)
    shortest = max(1, around)
    wrong = [length for length in granted if not shortest <= length <= model.positions]
    if len(granted) != size:
        raise UnsupportedObservation(
            f"knowledge.lengths must name {size} lengths, one per example, got {len(granted)}"
        )
    if wrong:
        raise UnsupportedObservation(
            f"knowledge.lengths must be in [{shortest}, {model.positions}], got {wrong[0]}"
        )
    return granted, True


def _labels(
    observation: Observation, size: int, mask: Tensor, generator: torch.Generator
) -> Tensor | None:
    model, granted = observation.model, observation.knowledge.labels
    if model.spec.task != "classification":
        return None
    if model.spec.num_labels < 2:
        raise UnsupportedObservation(
            "matching needs a classifier of two labels or more: of one, transformers' loss is a "
            f"squared error; got {model!r} with num_labels = {model.spec.num_labels}"
        )
    if granted is None:
        return read_labels(observation, mask, generator)
    if len(granted) != size:
        raise UnsupportedObservation(
            f"knowledge.labels must name {size} labels, one per example, got {len(granted)}"
        )
    wrong = [label for label in granted if not 0 <= label < model.spec.num_labels]
    if wrong:
        raise UnsupportedObservation(
            f"knowledge.labels: the model has labels 0 to {model.spec.num_labels - 1}, "
            f"got {wrong[0]}"
        )
    return torch.tensor(granted)
