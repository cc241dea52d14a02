"""Count the labels of a batch: a classifier's, or the tokens that a next-token loss predicts.

Source:      Zhao, Mopuri, Bilen, "iDLG: Improved Deep Leakage from Gradients", arXiv:2001.02610
             (one label: the negative entry); counts of many as in breaching (Geiping et al.), from
             the head's bias.
Assumes:     a head, or a last norm with a bias, that trains; a gradient, or a delta that is a sum
             of gradients. Where lengths are granted it knows how many tokens are predicted; else it
             finds that number.
Recovers:    how often each label is there, in no order and of no text by itself. Exactly at random
             weights; of trained ones about, as what the model says of a batch must be guessed by
             what it says of texts of its own. What the head's bias shows as negative is there
             without a doubt: p is never negative.
Deviations:  without a bias of the head (most language models), the last norm's bias or the head's
             weight tell the same, by what the head reads (``attacks.reads.targets``). A head tied
             to the word embeddings shows the tokens that were read, too, which blurs it.

It is scored as what it says: precision and recall over all labels of the batch; of next tokens over
all tokens, of which a text's first is never predicted unless it is special. No text of it is exact.
Its controls are the usual ones. Of few labels chance alone comes near: the verdict says so.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from typing_extensions import override

from attacks.base import Attack
from attacks.reads import batch_labels, read_lengths, read_targets, spoken
from fedsim.errors import BadInput, UnsupportedObservation
from fedsim.messages import Observation, Reconstruction
from fedsim.models import ModelAdapter
from fedsim.types import Reads

LENGTH = 16  # tokens of the random texts that a classifier is asked about, where none are told


@dataclass(frozen=True, kw_only=True)
class LabelCounts(Attack):
    """The labels of a classifier's batch, or the tokens that are predicted."""

    kind: ClassVar = "analytic"
    paper_knowledge: ClassVar[tuple[str, ...]] = ("batch_size", "lengths")

    @override
    def reads(self, model: ModelAdapter) -> Reads:
        return "labels" if model.spec.task == "classification" else "tokens"

    @override
    def check(self, model: ModelAdapter) -> None:
        super().check(model)
        if model.spec.task == "masked-lm":
            raise BadInput("attack labels fits classification or causal-lm, got masked-lm")

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        if not any(tensor.any() for tensor in observation.update.tensors.values()):
            return Reconstruction()
        if observation.model.spec.task == "classification":
            return self._classes(observation, generator)
        lengths = observation.knowledge.lengths
        predicted = None if lengths is None else sum(max(0, length - 1) for length in lengths)
        told = read_targets(observation, spoken(observation, generator), predicted)
        return Reconstruction(
            sequences=(told.tokens,) if told.tokens else (),
            diagnostics={"predicted": told.predicted, "counted": told.counted, "way": told.way},
        )

    def _classes(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        granted = observation.knowledge
        size = observation.update.num_examples if granted.batch_size is None else granted.batch_size
        if size < 1:
            raise UnsupportedObservation(
                f"labels needs the batch size, got {size}: grant knowledge.batch_size where the "
                "update does not tell it"
            )
        lengths = granted.lengths or (self._longest(observation),) * size
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        labels = batch_labels(observation, mask, generator)
        return Reconstruction(
            sequences=() if labels is None else (tuple(labels.tolist()),),
            diagnostics={"counted": labels is not None},
        )

    def _longest(self, observation: Observation) -> int:
        try:
            return read_lengths(observation)[0]
        except UnsupportedObservation:  # it hardly matters how long random texts are
            return min(LENGTH, observation.model.positions)
