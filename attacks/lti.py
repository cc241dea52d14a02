"""Train a network to invert the client: from updates that one simulates oneself to their texts.

Source:      Wu, Chen, Guo, Weinberger, "Learning to Invert: Simple Adaptive Attacks for Gradient
             Inversion in Federated Learning", UAI 2023, arXiv:2210.10880; ``prior`` = "unigram" is
             its LTI-P, ``network`` = "paper" its network.
Assumes:     the weights and the training config sent; text like the client's (``auxiliary``), or
             only how often each token occurs in it ("unigram"; without a file: that each is as
             likely). Lengths, where the update does not show them. Told of the defenses in force,
             it simulates them, too; else it simulates none.
Recovers:    most tokens of one short text in order, also from signs and sparse updates; of several
             texts less. The first token of a text that is only read, and never predicted, hardly.
Deviations:  by default a network of each place with structured features and a head tied to the
             target's embeddings, which needs a hundredth of the training; an update is divided by
             its norm first, so that its scale says nothing; the loss of a large vocabulary is over
             sampled tokens; windows of text, not blocks; no choice of a checkpoint. FedAvg, LoRA
             and dropout are simulated by the client's own training; the paper has FedSGD alone.
             Its training hangs on no clock and on nothing drawn: the same weights, pipeline and
             settings give the same inverter, which is kept (``cache``).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor
from typing_extensions import override

from attacks.base import Attack
from attacks.learned import (
    Curriculum,
    Job,
    Network,
    Pipeline,
    Prior,
    Shape,
    Simulator,
    Source,
    check_auxiliary,
    inverter_of,
    shape_of,
)
from fedsim.messages import Observation, Reconstruction
from fedsim.models import ModelAdapter
from fedsim.types import Tokens


@dataclass(frozen=True, kw_only=True)
class Lti(Attack):
    """Learns from simulated clients, through the defenses that it is told of."""

    auxiliary: str = ""  # a text file, one text a line; "": any token is as likely
    prior: Prior = "aux"  # aux: windows of its texts; unigram: its tokens, drawn one by one
    network: Network = "rows"
    samples: int = 20480  # simulated clients; > 0
    passes: int = 3  # over each of them; > 0
    step: int = 4  # one inverter for texts whose lengths end in the same step of so many; > 0
    batch_size: int = 32  # of the training, in clients; > 0
    learning_rate: float = 1e-3  # of Adam, down a cosine; > 0
    width: int = 384  # of the network, rows; > 0
    features: int = 2048  # numbers of each place, rows; > 0
    hashing: float = 0.1  # bins over the update's entries, paper; in (0, 1]
    cache: str = ""  # a directory for trained inverters; "": they end with the process

    kind: ClassVar = "learned"
    paper_knowledge: ClassVar[tuple[str, ...]] = ("batch_size", "defense", "labels", "lengths")
    paths: ClassVar[tuple[str, ...]] = ("auxiliary", "cache")
    learns_from: ClassVar[tuple[str, ...]] = ("auxiliary",)

    def __post_init__(self) -> None:
        for name, kind in (("prior", Prior), ("network", Network)):
            if getattr(self, name) not in get_args(kind):
                allowed = " or ".join(get_args(kind))
                raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)!r}")
        whole = ("samples", "passes", "step", "batch_size", "width", "features")
        for name in (*whole, "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0.0 < self.hashing <= 1.0:
            raise ValueError(f"hashing must be in (0, 1], got {self.hashing}")
        check_auxiliary(self.auxiliary)

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        shape = shape_of(observation)
        alike = shape.together(self.step, observation.model.positions)
        simulator = Simulator(observation, alike, Pipeline(observation.knowledge.defense or ()))
        source = Source(observation.model, self.auxiliary, self.prior)
        inverter = inverter_of(Job.of(simulator, source, self._recipe(), self.cache))
        device = observation.model.device
        update = {name: t.to(device) for name, t in observation.update.tensors.items()}
        guess = inverter(update)
        return Reconstruction(
            sequences=() if guess is None else texts_of(guess, shape, observation.model),
            diagnostics={
                "simulated_clients": inverter.samples,
                "held_out_accuracy": inverter.accuracy,
                "defense_simulated": bool(observation.knowledge.defense),
                "lengths_granted": observation.knowledge.lengths is not None,
            },
        )

    def _recipe(self) -> Curriculum:
        return Curriculum(
            network=self.network,
            samples=self.samples,
            passes=self.passes,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            width=self.width,
            features=self.features,
            hashing=self.hashing,
        )


def texts_of(guess: Tensor, shape: Shape, model: ModelAdapter) -> tuple[Tokens, ...]:
    """Return a guess (B, T) as texts: of the one length there is, or up to where padding begins."""
    texts = []
    alike = len(set(shape.lengths)) == 1
    for row in guess[:, : shape.longest].tolist():
        tokens = row if alike or model.pad not in row[1:] else row[: row.index(model.pad, 1)]
        around = (*model.prefix, *tokens[len(model.prefix) : len(tokens) - len(model.suffix)])
        texts.append((*around, *model.suffix))
    return tuple(texts)
