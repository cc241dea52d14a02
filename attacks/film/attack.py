"""Write texts from a bag of words, with the language model that is being trained.

Source:      Gupta, Huang, Zhong, Gao, Li, Chen, "Recovering Private Text in Federated Learning of
             Language Models" (FILM), NeurIPS 2022, arXiv:2205.08514.
Assumes:     a causal language model whose word embeddings train, better the more it knows of such
             texts. The bag is read off the update (``bag``), never off the truth, as the paper's
             code has it.
Recovers:    a text of few words about, where the model finds it likely; of batches pieces.
Deviations:  beams of their own for each word that begins a text, in place of groups with a penalty;
             one score for choosing and mending (the distance to the observed gradient of the last
             norm, the share of the bag that is missing, nats), where the paper has the norm of a
             candidate's own gradient and its perplexity; a text ends where its sentence does.

Its sequences are texts, scored as all are. Chance is high, as any sentence shares words with
others: the verdict is by what is above unrelated sentences and another client's reading.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from typing_extensions import override

from attacks.base import Attack
from attacks.film.beams import Beams, bodies
from attacks.film.language import Language
from attacks.film.mending import Mending
from attacks.reads import moved_rows, read_lengths
from fedsim.errors import BadInput, UnsupportedObservation
from fedsim.messages import Observation, Reconstruction
from fedsim.models import ModelAdapter

FEWEST = 2  # tokens of a bag that a text can be written from
TWICE = 2  # a text has no more tokens than that times its share of the bag, about
EACH = 2  # beginnings of each text of the batch


@dataclass(frozen=True, kw_only=True)
class Film(Attack):
    """Beams over the bag, the best texts together, mended."""

    beams: int = 16  # texts that go on, of each beginning; > 0
    starts: int = 8  # beginnings at the least; > 0
    kept: int = 8  # texts of each beginning to choose from; > 0
    longest: int = 40  # tokens of a text where no length is granted or read; > 1
    passes: int = 4  # of mending; >= 0
    tries: int = 28  # variants of a text in each; >= 0
    alpha: float = 0.1  # weight of nats a token; >= 0

    kind: ClassVar = "analytic"
    paper_knowledge: ClassVar[tuple[str, ...]] = ("batch_size",)

    def __post_init__(self) -> None:
        for name, least in (("beams", 1), ("starts", 1), ("kept", 1), ("longest", 2),
                            ("passes", 0), ("tries", 0), ("alpha", 0)):  # fmt: skip
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")

    @override
    def check(self, model: ModelAdapter) -> None:
        super().check(model)
        if model.spec.task != "causal-lm" or not model.module.can_generate():
            raise BadInput(
                "attack film writes with the model itself: it must be a causal-lm one that "
                f"transformers can generate with, got {model.spec.task}"
            )

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        model, granted = observation.model, observation.knowledge
        bag = tuple(t for t in moved_rows(observation).tokens if t not in model.special)
        size = observation.update.num_examples if granted.batch_size is None else granted.batch_size
        notes = {"types": len(bag), "candidates": 0, "scored": 0, "score": 0.0, "distance": False}
        if len(bag) < FEWEST or size < 1:
            return Reconstruction(diagnostics=notes)
        language = Language(observation)
        longest = min(self._longest(observation), 2 + TWICE * -(-len(bag) // size))
        beams = Beams(language, bag, self.beams, longest, self.kept)
        texts = beams.texts(max(self.starts, EACH * size))
        mending = Mending(language, bag, self.alpha)
        best = mending.chosen(texts, size)
        best, score = mending.mended(best, self.passes, self.tries, generator)
        notes |= {"candidates": len(texts), "scored": mending.scored, "score": score}
        notes |= {"distance": language.observed is not None}
        return Reconstruction(
            sequences=tuple(bodies(best, model.prefix, model.suffix)), diagnostics=notes
        )

    def _longest(self, observation: Observation) -> int:
        """Return how many tokens a text may have, special ones left out."""
        model, lengths = observation.model, observation.knowledge.lengths
        around = len(model.prefix) + len(model.suffix)
        if lengths:
            return max(2, max(lengths) - around)
        try:
            return max(2, min(self.longest, read_lengths(observation)[0] - around))
        except UnsupportedObservation:
            return min(self.longest, model.positions - around)
