"""The gradient of dummies: what a client with these embeddings in place of its texts would send.

The client's own forward and loss, with ``inputs_embeds``; the parameters' gradients are not formed
but kept as factors (fedsim.models.factors), for as many candidates at once as are given.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attacks.matching.frame import Frame
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.models.factors import (
    Factor,
    Lookups,
    Runs,
    factor,
    holders,
    known,
    runs_of,
)

Factors = dict[str, Factor]
PROBE = 8  # tokens of the sequences that show which modules read the batch alone


@dataclass
class Masks(TorchFunctionMode):
    """Under ``with``: dropout multiplies by given masks, in the order in which it is called.

    Attributes:
        values: one for each dropout, for S sequences; empty: they are made as they are met.
        copies: how many candidates share them.
    """

    values: list[Tensor] = field(default_factory=list)
    copies: int = 1
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self._calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is not functional.dropout:
            return func(*args, **given)
        rate = given["p"] if "p" in given else args[1]
        if not given.get("training", True) or not rate:
            return args[0]
        if self._calls == len(self.values):
            kept = torch.full(args[0].shape, 1.0 - rate)
            drawn = torch.bernoulli(kept, generator=self.generator)
            self.values.append(drawn.to(args[0]))
        mask = self.values[self._calls]
        self._calls += 1
        return args[0] * mask.repeat(self.copies, *[1] * (mask.ndim - 1)) / (1.0 - rate)


class Engine:
    """Gradients of dummies at the broadcast weights, for a batch shaped like ``frame``.

    Attributes:
        words: (V, D) the token embeddings.
        words_name: what the update calls them, where it shows them and nothing else is tied to
            them: their gradient depends on tokens, so only ``factors(..., ids=...)`` gives it.
        names: the parameters whose gradients are computed.
        left_out: those that nobody can tell for each candidate: of a module that is neither a
            linear map, nor an embedding, nor a norm, or that reads other than the batch (DeBERTa's
            relative positions), or of several modules.
    """

    def __init__(
        self,
        observation: Observation,
        frame: Frame,
        names: Iterable[str] | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """Make the engine.

        Args:
            observation: what is attacked.
            frame: the shape of the batch.
            names: the parameters; None: all of the update.
            whole: whether none may be left out.

        Raises:
            UnsupportedObservation: one is of no module, or left out though none may be.
        """
        self.model, self.frame = observation.model, frame
        module: Any = observation.model.load(observation.broadcast.parameters)
        module.eval()
        self._module = module
        self._lease = observation.model.lease()
        self.words, self._scale = _embedded(module.get_input_embeddings())
        owners = holders(module)
        by_name = dict(module.named_parameters())
        self.words_name: str | None = None
        self._sites: dict[str, tuple[nn.Module, str]] = {}
        self.left_out: dict[str, str] = {}  # by name, whose they are
        for name in observation.update.tensors if names is None else names:
            places = owners[by_name[name]] if name in by_name else []
            if any(isinstance(m, nn.Embedding) and m.weight is self._input() for m, _ in places):
                self.words_name = name if len(places) == 1 else None
            elif not places:
                raise UnsupportedObservation(f"parameter {name!r} belongs to no module")
            elif len(places) == 1 and known(places[0][0]):
                self._sites[name] = places[0]
            else:
                self.left_out[name] = ", ".join(type(module).__name__ for module, _ in places)
        self._leave_shared()
        self.names = tuple(self._sites)
        for name, held in self.left_out.items() if whole else ():
            raise UnsupportedObservation(
                f"parameter {name!r} must belong to one linear map, embedding or norm that reads "
                f"the batch alone, but it belongs to {held}"
            )

    @torch.no_grad()
    def _leave_shared(self) -> None:
        """Leave out the parameters of modules that read what is not each candidate's own."""
        made = [self._sizes(count) for count in (2, 3)]
        for name, (module, _) in [*self._sites.items()]:
            two, three = (sizes.get(module, []) for sizes in made)
            if not two or [3 * size for size in two] != [2 * size for size in three]:
                self.left_out[name] = f"{type(module).__name__}, which reads other than the batch"
                del self._sites[name]

    def _sizes(self, count: int) -> dict[nn.Module, list[int]]:
        """Return how many rows each run of each module makes of so many candidates, short ones."""
        mask = self.frame.mask[:1, :PROBE].new_ones(count, min(PROBE, self.frame.mask.shape[1]))
        ids = torch.arange(mask.numel(), device=self.words.device).view(mask.shape)
        with self._watched() as runs:
            self.model.logits(self.words[ids % len(self.words)], mask)
        return {module: [len(result) for _, result in some] for module, some in runs.items()}

    def _input(self) -> Any:
        return self._module.get_input_embeddings().weight

    def heads(self) -> list[Tensor]:
        """Return the weights that make logits over the vocabulary; of classification none."""
        head: Any = self._module.get_output_embeddings()
        return [] if head is None else [head.weight.detach()]

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of token ids (...): (..., D)."""
        return self.words[ids]

    def factors(
        self,
        x: Tensor,
        targets: Tensor,
        *,
        rows: Sequence[int] | None = None,
        graph: bool = False,
        ids: Tensor | None = None,
        masks: Sequence[Tensor] | None = None,
        scales: Tensor | None = None,
    ) -> Factors:
        """Return the gradient of the client's loss for each of K dummy batches.

        Args:
            x: (K, S, T, D) embeddings of the sequences ``rows`` of the frame.
            targets: of classification (S,) ids or (K, S, C) shares; else (K, S, T) or
                (K, S, T, V), what each place of the text holds.
            rows: which S sequences these are; None: all. Their part of the batch's gradient.
            graph: whether to differentiate through the result; it then holds on to ``x``.
            ids: (K, S, T) the tokens that ``x`` embeds, for the word embeddings' gradient.
            masks: one for each dropout, as ``Masks`` keeps them; None: dropout is off.
            scales: (K, S) what each sequence's part is multiplied by; None: 1.
        """
        self._lease.check(self)
        k, s, t, _ = x.shape
        chosen = list(range(len(self.frame.mask)) if rows is None else rows)
        mask = self.frame.mask[chosen][:, :t]  # (S, T); padding may have been cut off
        if masks is not None:
            masks = [mask[chosen] for mask in masks]
        with torch.enable_grad(), self._dropout(masks, k), self._watched() as runs:
            flat = (x if graph else x.detach()).reshape(k * s, t, -1)
            if not flat.requires_grad:
                flat.requires_grad_()
            logits = self.model.logits(flat, mask.repeat(k, 1))
            each = self.frame.loss(logits.view(k, s, *logits.shape[1:]), targets, chosen)
            loss = (each if scales is None else each * scales).sum()
            outputs = [made for some in runs.values() for _, made in some]
            wanted = [*outputs, *([flat] if ids is not None else [])]
            errors = torch.autograd.grad(loss, wanted, create_graph=graph, allow_unused=True)
            made = _Made(runs, dict(zip(map(id, outputs), errors, strict=False)), k)
            result = {name: made.factor(*site) for name, site in self._sites.items()}
        if ids is not None and self.words_name is not None and errors[-1] is not None:
            told = self._scale * errors[-1].reshape(k, s * t, -1)
            result[self.words_name] = Lookups(ids.flatten(1), told)
        return result

    def dropout_masks(self, generator: torch.Generator) -> list[Tensor]:
        """Return a first mask for every dropout of the model, drawn at its own rate."""
        masks = Masks(generator=generator)
        size = (*self.frame.mask.shape, self.words.shape[1])
        self._module.train()
        try:
            with torch.no_grad(), masks:
                self.model.logits(self.words.new_zeros(size), self.frame.mask)
        finally:
            self._module.eval()
        return masks.values

    @contextlib.contextmanager
    def _dropout(self, masks: Sequence[Tensor] | None, copies: int) -> Iterator[None]:
        if masks is None:
            yield
            return
        self._module.train()
        try:
            with Masks(list(masks), copies):
                yield
        finally:
            self._module.eval()

    def _watched(self) -> contextlib.AbstractContextManager[Runs]:
        return runs_of(module for module, _ in self._sites.values())


@torch.no_grad()
def _embedded(embedding: Any) -> tuple[Tensor, float]:
    """Return what the model makes of each token (V, D), and by what that multiplies its weight."""
    weight = embedding.weight.detach()
    if type(embedding) is nn.Embedding:
        return weight, 1.0
    words = embedding(torch.arange(len(weight), device=weight.device))  # Gemma's are scaled
    return words, float(words.norm() / weight.norm())


@dataclass(frozen=True)
class _Made:
    """What the modules read and what their outputs were told, for K candidates."""

    runs: Runs
    errors: dict[int, Tensor | None]  # by the output's identity
    count: int  # K

    def factor(self, module: nn.Module, name: str) -> Factor:
        """Return the gradient of ``module``'s parameter called ``name``, over all its runs."""
        lookup = isinstance(module, nn.Embedding)
        if module not in self.runs:
            raise UnsupportedObservation(f"matching: {type(module).__name__} ran for others alone")
        read, told = list[Tensor](), list[Tensor]()
        for given, result in self.runs[module]:
            error = self.errors[id(result)]
            told.append(self._split(torch.zeros_like(result) if error is None else error))
            read.append(given.reshape(self.count, -1) if lookup else self._split(given))
        return factor(module, name, _joined(read), _joined(told))

    def _split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(self.count, -1, tensor.shape[-1])


def _joined(some: list[Tensor]) -> Tensor:
    return some[0] if len(some) == 1 else torch.cat(some, dim=1)
