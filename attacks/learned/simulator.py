"""Simulated clients: the client's own training and, where it is known, its defenses.

The training is :class:`fedsim.local.LocalTraining`, whatever it does: FedAvg with any optimizer,
LoRA, dropout. Of FedSGD without dropout many clients share one backward pass.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.learned.gradients import Gradients, gradients_of
from attacks.learned.pipeline import Pipeline, clipped
from attacks.learned.shape import Shape
from attacks.learned.texts import as_texts
from fedsim.errors import UnsupportedObservation
from fedsim.local import LocalTraining
from fedsim.messages import Observation
from fedsim.models import ModelAdapter
from fedsim.models.factors import RunsTwice
from fedsim.rng import global_stream
from fedsim.training import Examples, TrainingSettings, mean_gradient

TOKENS = 128  # that share a backward pass, at most: more logits than a cache holds are slower


@dataclass(frozen=True)
class Simulator:
    """Clients that train as the observed one was told to."""

    observation: Observation
    shape: Shape
    pipeline: Pipeline

    @functools.cached_property
    def settings(self) -> TrainingSettings:
        """How clients train: as the server told them."""
        return TrainingSettings.from_config(self.observation.broadcast.config)

    @property
    def model(self) -> ModelAdapter:
        """The model's adapter."""
        return self.observation.model

    @property
    def path(self) -> float:
        """By what a client's update is longer than a gradient, roughly."""
        if self.observation.update.kind == "gradient":
            return 1.0
        return self.settings.learning_rate * self.settings.steps(self.shape.texts)

    @functools.cached_property
    def together(self) -> bool:
        """Whether many clients may share one backward pass."""
        settings = self.settings
        plain = settings.algorithm == "fedsgd" and not settings.dropout
        whole = settings.compute_dtype == "float32"  # an example of many may be rounded otherwise
        if not (plain and whole) or (self.pipeline.each and self.shape.texts > 1):
            return False
        try:
            self.gradients(torch.full((1, self.shape.texts, self.shape.longest), 1), _fixed())
        except (RunsTwice, UnsupportedObservation):
            return False
        return True

    def gradients(self, texts: Tensor, generator: torch.Generator) -> Gradients:
        """Return the raw gradients of clients that hold ``texts`` (K, B, T), at the weights sent.

        Raises:
            RunsTwice: see :func:`attacks.learned.gradients.gradients_of`.
            UnsupportedObservation: see there.
        """
        module = self.model.load(self.observation.broadcast.parameters).eval()
        return gradients_of(self.model, module, self._examples(texts, generator), generator)

    def probes(self, texts: Tensor, generator: torch.Generator) -> Gradients | None:
        """Return gradients of clients as factors; None: the model has parts without a rule."""
        try:
            return self.gradients(texts, generator)
        except (RunsTwice, UnsupportedObservation):
            return None

    def words(self) -> Tensor:
        """Return the model's token embeddings, at the weights sent: (V, E)."""
        module = self.model.load(self.observation.broadcast.parameters)
        table = module.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        return table.detach().float().clone()

    def parts(self) -> dict[str, str]:
        """Return the names of the embeddings of words and of learned positions that train."""
        module, found = self.model.module, dict[str, str]()
        words = module.get_input_embeddings()
        for name, part in module.named_modules():
            if isinstance(part, nn.Embedding) and part.weight.requires_grad:
                if part is words:
                    found["embedding"] = f"{name}.weight"
                elif self.model.positional and len(part.weight) >= self.model.positions:
                    found["positions"] = f"{name}.weight"
        sent = self.observation.update.tensors
        return {kind: name for kind, name in found.items() if name in sent}

    def updates(self, texts: Tensor, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        """Yield what each client that holds ``texts`` (K, B, T) sends."""
        for tensors in self._raw(texts, generator):
            pipeline = self.pipeline if self.together else self.pipeline.after
            yield self._on_the_wire(pipeline(tensors, generator))

    def _raw(self, texts: Tensor, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        if not self.together:
            for one in self._examples(texts, generator):
                yield self._trained(one, generator)
            return
        size = max(1, TOKENS // texts[0].numel())
        for some in texts.split(size):
            gradients = self.gradients(some, generator)
            yield from (gradients.of(client) for client in range(len(some)))

    def _trained(self, examples: Examples, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the update of the client's own training, private where its defense is."""
        gradient = PrivateGradient(self.pipeline) if self.pipeline.each else mean_gradient
        training = LocalTraining(self.model, self.settings, gradient=gradient)
        seed = int(torch.randint(2**62, (), generator=generator))
        with global_stream(seed, "dropout"), torch.enable_grad():
            return training(self.observation.broadcast.parameters, examples, generator)[0]

    def _examples(self, texts: Tensor, generator: torch.Generator) -> Sequence[Examples]:
        granted, kinds = self.observation.knowledge.labels, self.model.spec.num_labels
        made = []
        for rows in texts:
            labels = granted or torch.randint(kinds, (len(rows),), generator=generator).tolist()
            made.append(Examples(sequences=as_texts(rows), labels=tuple(labels)))
        return made

    def _on_the_wire(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        dtype = getattr(torch, self.settings.wire_dtype)
        return {name: tensor.to(dtype).float() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class PrivateGradient:
    """DP-SGD's gradient: each example's is clipped, noise added to their sum.

    Source: Abadi et al., CCS 2016, arXiv:1607.00133, algorithm 1.
    """

    pipeline: Pipeline

    def __call__(
        self,
        module: nn.Module,
        adapter: ModelAdapter,
        examples: Examples,
        generator: torch.Generator,
    ) -> float:
        """Leave the private gradient of the batch in the parameters; return its mean loss."""
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        norm, noises = self.pipeline.clip, self.pipeline.noise
        whole = {name: torch.zeros_like(p) for name, p in trained.items()}
        losses = 0.0
        for row in range(len(examples)):
            module.zero_grad(set_to_none=True)
            losses += mean_gradient(module, adapter, examples.take([row]), generator)
            own = {name: _grad(p) for name, p in trained.items()}
            for name, part in clipped(own, norm).items():
                whole[name] += part
        for name, p in trained.items():
            noise = torch.randn(p.shape, generator=generator).to(p)
            p.grad = (whole[name] + noises * noise) / len(examples)
        return losses / len(examples)


def _grad(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()


def _fixed() -> torch.Generator:
    return torch.Generator().manual_seed(0)
