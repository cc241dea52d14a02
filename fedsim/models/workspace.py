"""One module of a model family: built, frozen, loaded with weights."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Self, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fedsim.errors import BadInput, MalformedMessage, reading, unknown
from fedsim.models.adapters import load_weights
from fedsim.models.checkpoint import check_finite, read_checkpoint
from fedsim.models.lora import add_lora
from fedsim.models.spec import ModelSpec
from fedsim.models.tokenizing import around
from fedsim.rng import global_stream
from fedsim.types import Parameters, Tokens

TEXT = "$A"  # stands for a text in a template


class Workspace(ABC):
    """Owns one module of a model family: whoever needs weights in it loads them first."""

    family: ClassVar[str]
    causal: ClassVar[bool]  # a token sees only those before it: prefixes can be tested alone
    positional: ClassVar[bool]  # the first layer's input depends on the position
    first_position: ClassVar[int | None] = 0  # its id; None: the model takes no ids of positions
    classes: ClassVar[Mapping[str, type[PreTrainedModel]]]  # by task
    groups: ClassVar[Mapping[str, tuple[str, ...]]]  # what "freeze" can name, as patterns
    attention: ClassVar[tuple[str, ...]]  # LoRA's default targets
    dropouts: ClassVar[tuple[str, ...]]  # the config's rates of dropout
    stack: ClassVar[str]  # the last part of the name of the list of blocks
    heads: ClassVar[Mapping[str, str]]  # of tasks whose logits one linear map makes: its path
    presets: ClassVar[Mapping[str, Callable[[], PreTrainedConfig]]]  # <family> or <family>-<size>
    special_tokens: ClassVar[Mapping[str, str]]  # of presets, by what transformers calls each
    template: ClassVar[str] = TEXT  # where they stand around a text

    def __init__(
        self,
        spec: ModelSpec,
        config: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        options: Mapping[str, Any] | None = None,  # of transformers' loaders
        origin: PreTrainedModel | None = None,  # a model in memory, in place of one that is loaded
    ) -> None:
        if spec.task not in self.classes:
            raise BadInput(
                f"model.task: a {self.family} model can do {' or '.join(sorted(self.classes))}, "
                f"got {spec.task!r}"
            )
        self.spec = spec
        self.config = config
        self.tokenizer = tokenizer
        self.options = dict(options or {})
        self.origin = origin
        self.device = torch.device("cpu")
        self.notes: list[str] = []  # what a reader must know of the weights that were read
        self.loads = 0  # how often other weights were loaded, or any while nobody held a lease
        self._leases: WeakSet[Lease] = WeakSet()  # those that somebody holds
        self._module: PreTrainedModel | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec.name!r}, task={self.spec.task!r})"

    def to(self, device: torch.device | str) -> Self:
        """Have the workspace on ``device`` from now on; messages stay on the CPU."""
        device = torch.device(device)
        if device != self.device:
            self.device, self._module = device, None
        return self

    @property
    def vocabulary(self) -> int:
        """V: the number of token ids the model embeds."""
        return int(self.config.vocab_size)

    @property
    def width(self) -> int:
        """D: the width of the hidden state."""
        return int(self.config.hidden_size)

    @property
    def layers(self) -> int:
        """L: the number of blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def positions(self) -> int:
        """The longest sequence the model can take, in tokens."""
        return int(self.config.max_position_embeddings)

    @property
    def prefix(self) -> Tokens:
        """The special tokens that the tokenizer puts before every text."""
        return around(self.tokenizer)[0]

    @property
    def suffix(self) -> Tokens:
        """The special tokens that the tokenizer puts after every text."""
        return around(self.tokenizer)[1]

    @property
    def special(self) -> frozenset[int]:
        """The ids that stand for no text: dropped before scoring."""
        return frozenset(self.tokenizer.all_special_ids)

    @property
    def pad(self) -> int:
        """The id that fills a batch up on the right; it gets no gradient."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    @property
    def module(self) -> PreTrainedModel:
        """The workspace: its weights are whatever was loaded or trained last."""
        if self._module is None:
            self._module = self.build()
        return self._module

    def build(self) -> PreTrainedModel:
        """Return a fresh module: pretrained or random weights, LoRA and freezing as in the spec.

        Of an origin it is a copy, computing as all modules here do.
        """
        if self.origin is not None:
            return self._copied(self.origin)
        with global_stream(self.spec.seed, "model"):
            module = self._fresh()
            self._meet(module.eval())
            if self.spec.lora_rank:
                module = add_lora(module, self.spec, self.attention)
            if self.spec.adapter and self.spec.weights == "pretrained":
                load_weights(module, Path(self.spec.adapter))
        self._freeze(module)
        return cast(PreTrainedModel, cast(nn.Module, module).to(self.device).eval())

    def _copied(self, origin: PreTrainedModel) -> PreTrainedModel:
        module = copy.deepcopy(origin)
        whole = module.get_base_model() if self.spec.lora_rank else module  # type: ignore[operator]
        whole.set_attn_implementation("eager")  # the one that can be differentiated twice
        whole.config.pad_token_id = self.pad
        self._meet(whole.float().eval())
        return cast(PreTrainedModel, cast(nn.Module, module).float().to(self.device).eval())

    @abstractmethod
    def _meet(self, whole: Any) -> None:
        """Look at a module that was built, in evaluation mode and before LoRA wraps it."""

    def _fresh(self) -> PreTrainedModel:
        kind = self.classes[self.spec.task]
        config = copy.deepcopy(self.config)
        config.pad_token_id = self.pad
        if self.spec.task == "classification":
            config.num_labels = self.spec.num_labels
            config.problem_type = "single_label_classification"  # transformers' loss goes by it
        if self.spec.dropout is not None:
            for name in self.dropouts:
                setattr(config, name, self.spec.dropout)
        how: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}
        name = self.spec.name
        if self.spec.weights == "random":
            with reading(f"model.name: no model can be built as {name!r} says"):
                module = cast(PreTrainedModel, kind._from_config(config, **how))
        else:
            module, self.notes = read_checkpoint(kind, name, config, **how, **self.options)
        check_finite(module, name)
        return module

    def _freeze(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        for name in self.spec.freeze:
            patterns = self.groups.get(name, (name,))
            if name.startswith("layers."):
                patterns = (f"*.{self.stack}.{name.removeprefix('layers.')}.*",)
            hits = [path for path in parameters if any(fnmatchcase(path, p) for p in patterns)]
            if not hits:
                if name in self.groups:  # a causal-lm head may be the embeddings themselves
                    raise BadInput(f"model.freeze: {self!r} has no {name} of its own")
                known = [*self.groups, *(f"layers.{i}" for i in range(self.layers))]
                raise BadInput(f"model.freeze: {unknown('parameters', name, known)}")
            for path in hits:
                parameters[path].requires_grad_(False)
        if not any(parameter.requires_grad for parameter in parameters.values()):
            raise BadInput(f"model.freeze: nothing is left to train with {list(self.spec.freeze)}")

    def trainable(self) -> list[str]:
        """Return the names of the parameters that train, so travel."""
        return [name for name, p in self.module.named_parameters() if p.requires_grad]

    def shown(self) -> ModelSpec:
        """Return what a server need know: no seed where no weight that stays at home is of it.

        From the seed of the model follows that of the run, if somebody tries enough of them.
        """
        random, head = self.spec.weights == "random", self.groups.get("head", ())
        for name, parameter in self.module.named_parameters():
            unused = (
                parameter.requires_grad or ".original_module." in name
            )  # peft put its own there
            if not unused and (random or any(fnmatchcase(name, pattern) for pattern in head)):
                return self.spec
        return replace(self.spec, seed=0)

    def lease(self) -> "Lease":
        """Return what tells, later, that the weights of now are gone."""
        lease = Lease(self, self.loads)
        self._leases.add(lease)
        return lease

    def initial_parameters(self) -> dict[str, Tensor]:
        """Return the weights of round 1 that train, from a fresh module."""
        self._module, self.loads = self.build(), self.loads + 1
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self._module.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def load(self, parameters: Parameters) -> PreTrainedModel:
        """Copy ``parameters`` into the workspace and return it.

        Raises:
            MalformedMessage: a name or shape that the model does not have, or one that is missing.
        """
        slots = dict(self.module.named_parameters(remove_duplicate=False))
        slots |= dict(self.module.named_buffers(remove_duplicate=False))  # type: ignore[arg-type]
        for name, tensor in parameters.items():
            if name not in slots:
                raise MalformedMessage(f"{self!r} has no parameter {name!r}")
            if slots[name].shape != tensor.shape:
                wanted, got = tuple(slots[name].shape), tuple(tensor.shape)
                raise MalformedMessage(f"parameter {name!r} must have shape {wanted}, got {got}")
        missing = [name for name in self.trainable() if name not in parameters]
        if missing:
            raise MalformedMessage(f"{len(missing)} parameters are missing, first {missing[0]!r}")
        other = not self._leases  # to compare weights takes longer than to copy them
        for name, tensor in parameters.items():
            other = other or not torch.equal(slots[name], tensor.to(slots[name]))
            slots[name].copy_(tensor)
        self.loads += other
        return self.module


@dataclass(frozen=True, eq=False)
class Lease:
    """Weights in a workspace, until others are loaded."""

    workspace: Workspace
    loads: int  # the workspace's own, when it began

    def check(self, holder: object) -> None:
        """Raise RuntimeError where ``holder`` outlived the weights that it was made of."""
        if self.loads != self.workspace.loads:
            raise RuntimeError(
                "other weights were loaded into the model since this "
                f"{type(holder).__name__.lower()} was made"
            )


class Leased:
    """What shares a workspace's weights: once others were loaded, reading a field raises."""

    lease: Lease | None  # None: it shares none

    def __getattribute__(self, name: str) -> Any:
        if name != "lease" and not name.startswith("_") and self.lease is not None:
            self.lease.check(self)
        return object.__getattribute__(self, name)
