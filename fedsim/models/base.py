"""What an attack may ask of a model, so that no attack ever says ``if gpt2``."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fedsim.errors import BadInput, MalformedMessage, unknown
from fedsim.messages import Parameters, Tokens
from fedsim.models.closing import Closing
from fedsim.models.lora import add_lora
from fedsim.models.opening import Norm, Opening
from fedsim.models.spec import ModelSpec, Place, Projection
from fedsim.models.trunk import Trunk
from fedsim.rng import global_stream

IGNORED = -100  # the label that transformers' losses leave out
MASKED_SHARE = 0.15  # Devlin et al., NAACL 2019, sec. 3.1: 15 % of the tokens; 80/10/10 of those


class ModelAdapter(ABC):
    """One model family on ``transformers``: how to build it, train it and look into it.

    The adapter owns one module, a workspace: whoever needs weights in it loads them first.
    """

    family: ClassVar[str]
    causal: ClassVar[bool]  # a token sees only those before it: prefixes can be tested alone
    positional: ClassVar[bool]  # the first layer's input depends on the position
    classes: ClassVar[Mapping[str, type[PreTrainedModel]]]  # by task
    groups: ClassVar[Mapping[str, tuple[str, ...]]]  # what "freeze" can name, as patterns
    attention: ClassVar[tuple[str, ...]]  # LoRA's default targets
    reads: ClassVar[Mapping[Place, tuple[Projection, ...]]]  # a block's weights by what they read
    dropouts: ClassVar[tuple[str, ...]]  # the config's rates of dropout
    stack: ClassVar[str]  # the last part of the name of the list of blocks

    def __init__(
        self,
        spec: ModelSpec,
        config: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        options: Mapping[str, Any] | None = None,  # of transformers' loaders
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
        self.device = torch.device("cpu")
        self.loads = 0  # how often weights were loaded: a trunk made before is stale
        self._module: PreTrainedModel | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec.name!r}, task={self.spec.task!r})"

    def to(self, device: torch.device | str) -> "ModelAdapter":
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
        return self._around()[0]

    @property
    def suffix(self) -> Tokens:
        """The special tokens that the tokenizer puts after every text."""
        return self._around()[1]

    def _around(self) -> tuple[Tokens, Tokens]:
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = list(self.tokenizer("a")["input_ids"])
        start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        return tuple(full[:start]), tuple(full[start + len(bare) :])

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
        """Return a fresh module: pretrained or random weights, LoRA and freezing as in the spec."""
        with global_stream(self.spec.seed, "model"):
            module = self._fresh()
            if self.spec.lora_rank:
                targets = self.spec.lora_targets or self.attention
                module = add_lora(module, self.spec.lora_rank, targets, self.spec.task)
        self._freeze(module)
        return cast(PreTrainedModel, cast(nn.Module, module).to(self.device).eval())

    def _fresh(self) -> PreTrainedModel:
        kind = self.classes[self.spec.task]
        config = copy.deepcopy(self.config)
        config.pad_token_id = self.pad
        if self.spec.task == "classification":
            config.num_labels = self.spec.num_labels
        if self.spec.dropout is not None:
            for name in self.dropouts:
                setattr(config, name, self.spec.dropout)
        how: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}
        if self.spec.weights == "random":
            return cast(PreTrainedModel, kind._from_config(config, **how))  # type: ignore[no-untyped-call]
        try:
            return kind.from_pretrained(self.spec.name, config=config, **how, **self.options)
        except (OSError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BadInput(f"model.name: no weights in {self.spec.name!r}: {reason}") from error

    def _freeze(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        for name in self.spec.freeze:
            patterns = self.groups.get(name, (name,))
            if name.startswith("layers."):
                patterns = (f"*.{self.stack}.{name.removeprefix('layers.')}.*",)
            hits = [one for one in parameters if any(fnmatchcase(one, p) for p in patterns)]
            if not hits:
                if name in self.groups:  # a causal-lm head may be the embeddings themselves
                    raise BadInput(f"model.freeze: {self!r} has no {name} of its own")
                known = [*self.groups, *(f"layers.{i}" for i in range(self.layers))]
                raise BadInput(f"model.freeze: {unknown('parameters', name, known)}")
            for one in hits:
                parameters[one].requires_grad_(False)
        if not any(parameter.requires_grad for parameter in parameters.values()):
            raise BadInput(f"model.freeze: nothing is left to train with {list(self.spec.freeze)}")

    def trainable(self) -> list[str]:
        """Return the names of the parameters that train, so travel."""
        return [name for name, one in self.module.named_parameters() if one.requires_grad]

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
        self.loads += 1
        for name, tensor in parameters.items():
            slots[name].copy_(tensor)
        return self.module

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
            targets = ids.masked_fill(mask == 0, IGNORED)
        else:
            ids, targets = self._mask(ids, generator)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": targets}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return each example's own loss (B,): the mean over its predicted tokens, or its one.

        Only its own tokens count: every example gets positions of its own, which GPT-2 and BERT
        would look up once for all.
        """
        given = {name: tensor for name, tensor in batch.items() if name != "labels"}
        if self.positional:
            places = torch.arange(given["input_ids"].shape[1], device=self.device)
            given["position_ids"] = places.repeat(len(given["input_ids"]), 1)
        logits, labels = module(**given).logits, batch["labels"]  # (B, K) or (B, T, V)
        if self.spec.task == "classification":
            return nn.functional.cross_entropy(logits, labels, reduction="none")
        if self.spec.task == "causal-lm":
            logits, labels = logits[:, :-1], labels[:, 1:]
        each = nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )  # (B, T)
        return each.sum(1) / (labels != IGNORED).sum(1)

    def _mask(self, ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        special = torch.isin(ids, torch.tensor(sorted(self.special)))
        draw = torch.rand(ids.shape, generator=generator).masked_fill(special, 2.0)
        chosen = (draw < MASKED_SHARE) | (draw == draw.amin(dim=1, keepdim=True))  # at least one
        chosen &= ~special
        fate = torch.rand(ids.shape, generator=generator)
        noise = torch.randint(self.vocabulary, ids.shape, generator=generator)
        masked = ids.masked_fill(chosen & (fate < 0.8), int(self.tokenizer.mask_token_id or 0))
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
        places = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        given: dict[str, Any] = {"inputs_embeds": embedded, "position_ids": places}
        if not mask.all():
            given["attention_mask"] = mask.long()
        if self.causal:
            given["use_cache"] = False
        if self.causal and self.spec.task == "classification":
            states = whole.base_model(**given).last_hidden_state  # its own pooling reads padding
            last = mask.long().sum(dim=1) - 1
            rows = torch.arange(len(last), device=last.device)
            return cast(Tensor, whole.score(states[rows, last]))
        return cast(Tensor, whole(**given).logits)

    def projections(self, layer: int, place: Place = "hidden") -> tuple[Projection, ...]:
        """Return the weights of ``layer`` that read ``place``: by default its q, k and v."""
        base = f"{self._path()}{self.stack}.{layer}."
        return tuple(replace(one, name=base + one.name) for one in self.reads[place])

    def _path(self) -> str:
        """Return what stands before the list of blocks in a parameter's name."""
        return next(
            name[: name.index(f"{self.stack}.0.")]
            for name, _ in self.module.named_parameters()
            if f"{self.stack}.0." in name
        )

    def trunks(self, parameters: Parameters, *depths: int) -> tuple[Trunk, ...]:
        """Return the model's first blocks at the weights ``parameters``, one trunk for each depth.

        They share the workspace, so they work until other weights are loaded.
        """
        for depth in depths:
            if not 0 <= depth < self.layers:
                raise ValueError(f"depth must be in [0, {self.layers}), got {depth}")
        base = self._body(parameters)
        return tuple(Trunk(self, self._cut(base, depth)) for depth in depths)

    @torch.no_grad()
    def opening(self, parameters: Parameters) -> Opening:
        """Return block 0 up to its MLP at the weights ``parameters``.

        It shares the workspace, so it holds until other weights are loaded.
        """
        return self._open(self._body(parameters))

    @torch.no_grad()
    def closing(self, parameters: Parameters, sequences: Sequence[Tokens]) -> Closing | None:
        """Return what the last MLP's output map reads of ``sequences``, one after the other.

        None where the family's last norm is not the last thing before the head.
        """
        whole = self._whole(parameters)
        norm, head = self._end(whole)
        if norm is None:
            return None
        name = self.projections(self.layers - 1, "inner")[0].name.removesuffix(".weight")
        inner = self.module.get_submodule(name)
        caught: dict[nn.Module, Tensor] = {}
        hooks = [
            one.register_forward_pre_hook(lambda part, given: caught.update({part: given[0]}))
            for one in (inner, norm)
        ]
        activations, states = [], []
        try:
            for tokens in sequences:
                whole.base_model(input_ids=torch.tensor([tokens], device=self.device))
                activations.append(caught[inner][0])
                states.append(caught[norm][0])
        finally:
            for hook in hooks:
                hook.remove()
        return Closing(
            activations=torch.cat(activations),
            states=torch.cat(states),
            norm=Norm.of(norm),
            head=head.weight.detach(),
        )

    @torch.no_grad()
    def decisions(
        self, parameters: Parameters, sequences: Sequence[Tokens]
    ) -> tuple[str, Tensor, Tensor]:
        """Return the name of a classifier's head weight, and what it reads and says of sequences.

        Returns:
            The name, the states (N, D) that the head reads, and the logits (N, K).
        """
        whole = self._whole(parameters)
        head = self._end(whole)[1]
        head = getattr(head, "modules_to_save", {"default": head})["default"]  # peft's wrapper
        names = {one: name for name, one in self.module.named_modules()}
        states, logits = [], []
        hook = head.register_forward_pre_hook(
            lambda _, given: states.append(given[0].flatten(0, -2)[-1])
        )
        try:
            for tokens in sequences:
                logits.append(whole(input_ids=torch.tensor([tokens], device=self.device)).logits[0])
        finally:
            hook.remove()
        return f"{names[head]}.weight", torch.stack(states), torch.stack(logits)

    def _end(self, whole: Any) -> tuple[nn.Module | None, Any]:
        """Return the last norm, if all that follows it is the head, and the head."""
        return None, None

    def _whole(self, parameters: Parameters) -> Any:
        """Return the module, free of LoRA's wrapper, at the weights ``parameters``."""
        module: Any = self.load(parameters)
        module.eval()
        return module.get_base_model() if self.spec.lora_rank else module

    def _body(self, parameters: Parameters) -> Any:
        """Return the module without its head, at the weights ``parameters``."""
        return self._whole(parameters).base_model

    @abstractmethod
    def _open(self, base: Any) -> Opening:
        """Return block 0 of ``base`` in the open."""

    @abstractmethod
    def _cut(self, base: nn.Module, depth: int) -> nn.Module:
        """Return ``base`` with ``depth`` blocks and the next block's input norm as its last."""
