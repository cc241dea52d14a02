"""One look at a directory of captures."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from attacks.dager.span import Span
from attacks.dager.spectrum import find_span
from fedsim.captures import (
    Captured,
    CapturePath,
    captured_node,
    find_captures,
    is_masked,
    noted,
    read_capture,
)
from fedsim.finite import all_finite
from fedsim.lab.run.looks import Looks, looks_of
from fedsim.lab.run.told import open_questions, training_config
from fedsim.models.shapes import UP, Shapes
from fedsim.types import Parameters

LOOKED = 8  # captures whose values are looked at, evenly over all
READERS = re.compile(
    r"(?:^|[._])(q_proj|k_proj|v_proj|query|key|value|c_attn|qkv_proj|query_key_value|q_lin|k_lin"
    r"|v_lin|query_proj|key_proj|value_proj|Wqkv|qkv)\b"
)
"""What transformers calls the maps that make an attention's queries, keys and values."""
FAMILIES = {
    "c_attn": "gpt2",
    "q_lin": "distilbert",
    "query": "bert, roberta, xlm-roberta, electra, albert",
    "query_proj": "deberta-v2",
    "query_key_value": "gpt_neox, bloom, falcon",
    "qkv_proj": "phi3",
    "Wqkv": "modernbert",
    "q_proj": "llama, mistral, qwen2, qwen3, gemma, smollm3, olmo2, phi, opt, gpt_neo",
}
"""Whose name that is: model types of transformers."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What captures hold.

    Attributes:
        path: where they are.
        rounds: which.
        clients: how many captures each client has.
        nodes: Flower's number of each client, where that was noted.
        masked: how many are masked by secure aggregation.
        kind: gradient or delta, how many captures of each.
        examples: as stated, the least and the most; 0: not stated.
        model: what the captures say it is; {} where they are of somebody else's project.
        looks: what the arrays look like, in words.
        family: the model types that the names are of; "": none known.
        arrays: how many.
        settings: of training, as the server told its clients, in fedsim's words.
        unsaid: those that a positive control would have to know.
        rank: in how many dimensions what block 0 reads stands out, of each capture that shows it;
            as many as the batch has tokens that differ, by their places, too, where it has such.
        width: how many can be told apart: D, or LoRA's rank.
        filled: in how many captures they fill all dimensions.
        vague: in how many nothing shows where they end.
        adam: how many look like Adam's steps.
        hidden: what hides texts, each with how many of the captures looked at show it.
        looked: how many were looked at.
        notes: what the tap could not read.
    """

    path: str
    rounds: list[int]
    clients: dict[int, int]
    nodes: dict[int, int]
    masked: int
    kind: dict[str, int]
    examples: tuple[int, int]
    model: Mapping[str, Any]
    looks: str
    family: str
    arrays: int
    settings: Mapping[str, Any]
    unsaid: list[str]
    rank: list[int]
    width: int
    filled: int
    vague: int
    adam: int
    hidden: dict[str, int]
    looked: int
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def inspect_captures(root: Path) -> Inspection:
    """Look at the captures under ``root``.

    Raises:
        BadInput: there are none, or a file among them is broken.
    """
    every = find_captures(root)
    clear = [where for where in every if not is_masked(where)]
    some = [read_capture(where) for where in _spread(clear)]
    shapes = Shapes.of(_floats(some[0].broadcast.parameters) if some else {})
    told = [(one, _looks(one, shapes)) for one in some]
    spans = [(span, looks) for one, looks in told if (span := _entry(one, shapes)) is not None]
    full = [span.saturated or looks.filled for span, looks in spans]
    width = shapes.rank or shapes.width
    hidden = Counter(word for one, looks in told for word in looks.words(one.update.kind))
    config = _settings(some[0]) if some else {}
    stated = [captured.update.num_examples for captured in some]
    return Inspection(
        path=str(root),
        rounds=sorted({where.round for where in every}),
        clients=dict(sorted(Counter(where.client for where in every).items())),
        nodes={w.client: n for w in every if (n := captured_node(w)) is not None},
        masked=len(every) - len(clear),
        kind=dict(Counter(captured.update.kind for captured in some)),
        examples=(min(stated, default=0), max(stated, default=0)),
        model=some[0].model if some else {},
        looks=shapes.words() if some else "",
        family=_family(shapes),
        arrays=len(shapes.sent),
        settings=config,
        unsaid=open_questions(config, some[0].update.kind) if some else [],
        rank=[width if all_ else span.rank for all_, (span, _) in zip(full, spans, strict=True)],
        width=width,
        filled=sum(full),
        vague=sum(span.blurred and not looks.filled for span, looks in spans),
        adam=sum(looks.adam(one.update.kind) for one, looks in told),
        hidden=dict(hidden),
        looked=len(some),
        notes=noted(every[0].directory.parents[1]),
    )


def _spread(captures: Sequence[CapturePath]) -> list[CapturePath]:
    """Return some of the captures, evenly over all."""
    step = max(1, -(-len(captures) // LOOKED))
    return list(captures[::step])


def _settings(captured: Captured) -> dict[str, Any]:
    """Return how clients train as far as it is told."""
    return dict(training_config(captured.broadcast.config, captured.update.kind, {}))


def _floats(parameters: Parameters) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in parameters.items() if t.is_floating_point()}


def _family(shapes: Shapes) -> str:
    names = Counter(m[1] for name in shapes.sent if (m := READERS.search(name)))
    known = [name for name, _ in names.most_common() if name in FAMILIES]
    return FAMILIES[known[0]] if known else ""


def _looks(captured: Captured, shapes: Shapes) -> Looks:
    update, sent = captured.update, captured.broadcast.parameters
    return looks_of(_matrices(update.tensors, shapes), _matrices(sent, shapes), update.kind)


def _matrices(tensors: Parameters, shapes: Shapes) -> Parameters:
    """Return the arrays that are weights; of a list LoRA's B are named as such."""
    ups = {name for name in shapes.sent if shapes.listed and shapes.rank and shapes.is_up(name)}
    return {
        f"{name}{UP}weight" if name in ups else name: tensor
        for name, tensor in tensors.items()
        if name in shapes.sent
    }


def _entry(captured: Captured, shapes: Shapes) -> Span | None:
    """Return the span of what block 0's attention reads, as the update shows it; None: unknown.

    Of adapters, that of the one that shows most: each B reads through another A.
    """
    sent = captured.update.tensors
    tensors = {name: sent[name] for name in shapes.sent if name in sent}  # a list in its order
    blocks = _adapters(tensors, shapes) if shapes.rank else [_readers(tensors, shapes)]
    known = [some for some in blocks if some and all_finite(some)]
    spans = [find_span(some) for some in known if any(b.any() for b in some)]
    return max(spans, key=lambda span: span.rank, default=None)


def _adapters(tensors: Parameters, shapes: Shapes) -> list[list[Tensor]]:
    """Return block 0's LoRA B (K, R), which read the inputs through A from the first step on."""
    names = [
        name
        for name, tensor in tensors.items()
        if tensor.dim() == 2 and tensor.shape[1] == shapes.rank and shapes.is_up(name)
    ]
    first = shapes.parent(names[0]) if names else ""
    beside = [name for name in names if shapes.parent(name) == first and READERS.search(name)]
    return [[tensors[name].float().T] for name in beside or names[:1]]


def _readers(tensors: Parameters, shapes: Shapes) -> list[Tensor]:
    """Return the updates of block 0's queries, keys and values: (D, K) each, input axis first."""
    width = shapes.width
    fits = [
        name
        for name, tensor in tensors.items()
        if tensor.dim() == 2 and width in tensor.shape and max(tensor.shape) <= 4 * width
    ]
    if shapes.listed:  # blocks repeat, and embeddings do not
        often = Counter(tuple(tensors[name].shape) for name in fits)
        fits = [name for name in fits if often[tuple(tensors[name].shape)] > 1]
        fits = fits[: 1 if fits and max(tensors[fits[0]].shape) == 3 * width else 3]
    else:
        fits = [name for name in fits if READERS.search(name)]
        fits = [name for name in fits if shapes.parent(name) == shapes.parent(fits[0])]
    return [part for name in fits for part in _input_first(tensors[name].float(), width)]


def _input_first(matrix: Tensor, width: int) -> list[Tensor]:
    """Return a map with its input axis first; queries, keys and values in one are taken apart."""
    turned = matrix.T if matrix.shape[1] == width else matrix  # a square one is torch's Linear
    return list(turned.chunk(3, dim=1)) if turned.shape[1] == 3 * width else [turned]
