"""One look at a directory of captures."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from fedsim.lab.run.looks import looks_of
from fedsim.lab.run.told import open_questions, training_config
from fedsim.models.shapes import Shapes
from fedsim.types import Parameters

LOOKED = 8  # captures whose values are looked at, evenly over all
FIRST = re.compile(r"(?:^|[._])(q_proj|query|c_attn|qkv_proj|query_key_value|q_lin|Wqkv|qkv)\b")
"""What transformers calls the map that makes an attention's queries."""
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
        rank: dimensions of block 0's inputs that stand out, of each capture that was looked at.
        width: those that there could be: D, or LoRA's rank.
        filled: of how many captures they fill all dimensions.
        vague: in how many noise hides where they end.
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
    spans = [span for captured in some if (span := _entry(captured, shapes)) is not None]
    told = [(one, looks_of(_matrices(one.update.tensors, shapes))) for one in some]
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
        rank=[span.rank for span in spans],
        width=shapes.rank or shapes.width,
        filled=sum(span.saturated for span in spans),
        vague=sum(span.blurred for span in spans),
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
    config = dict(captured.broadcast.config)
    if not captured.model:
        config = dict(training_config(config, captured.update.kind, {}))
    return config


def _floats(parameters: Parameters) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in parameters.items() if t.is_floating_point()}


def _family(shapes: Shapes) -> str:
    names = Counter(m[1] for name in shapes.sent if (m := FIRST.search(name)))
    return FAMILIES.get(names.most_common(1)[0][0], "") if names else ""


def _matrices(tensors: Parameters, shapes: Shapes) -> Parameters:
    """Return the update's arrays that are weights, not counters."""
    return {name: tensor for name, tensor in tensors.items() if name in shapes.sent}


def _entry(captured: Captured, shapes: Shapes) -> Any:
    """Return the span of what block 0's attention reads, as its gradient shows it; None: unknown.

    Which axis is the input's is not known without the model, but a matrix has one rank.
    """
    block = _first(captured.update.tensors, shapes)
    if block is None or not block.isfinite().all() or not block.any():
        return None
    tall = block if block.shape[0] <= block.shape[1] else block.T
    with torch.no_grad():
        return find_span([tall.float()], drifting=captured.update.kind == "delta", wide=True)


def _first(tensors: Parameters, shapes: Shapes) -> Tensor | None:
    """Return the update of the first map that reads block 0's inputs."""
    width = shapes.width
    for name in shapes.sent:
        tensor = tensors.get(name)
        if tensor is None or tensor.dim() != 2 or min(tensor.shape) < 2:
            continue
        sides = set(tensor.shape)
        if shapes.rank and shapes.rank in sides and tensor.shape[1] == shapes.rank:
            return tensor  # B, which reads the inputs through A from the first step on
        named = shapes.listed or FIRST.search(name)
        if not shapes.rank and named and width in sides and max(sides) <= 4 * width:
            return tensor
    return None
