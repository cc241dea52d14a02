"""Block 0 in the open, put together from the graph: taken where it computes what the model does."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.models.graph.anatomy import Anatomy, some_tokens
from fedsim.models.graph.attention import Attention
from fedsim.models.graph.entry import AT_ONCE, GraphEntry
from fedsim.models.graph.running import near, read_by
from fedsim.models.norms import Norm, kind_of
from fedsim.models.opening import Embedded, Entrance, Opening, RunOpening, affine
from fedsim.models.spec import Place
from fedsim.models.workspace import Lease


@dataclass(frozen=True)
class Assembly:
    """Which of a model's parts make block 0.

    Attributes:
        norm: the name of the norm before attention, where its input is a sum of a token's and a
            position's part; None: it is not.
        middle: that of the norm between attention and MLP; None: attention's is not softmax's of
            q, k and v, or more lies between.
        normed: the residual stream is what attention reads.
    """

    norm: str | None = None
    middle: str | None = None
    normed: bool = True


@torch.no_grad()
def find_plan(whole: Any, anatomy: Anatomy) -> Assembly:
    """Return which parts make what a model computes in block 0, by runs of one sentence."""
    tokens = some_tokens(whole.config).to(whole.device)
    length, flat = tokens.shape[1], tokens[0]
    read = read_by(whole.base_model, _reader(whole, anatomy, "hidden"), tokens)
    places = torch.arange(length)
    norm = None
    for name in _norms_making(whole, read, tokens):
        plan = Assembly(norm=name)
        if near(_embedded(whole, anatomy, plan, length, flat).inputs(places, places), read[0]):
            norm = name
    if not anatomy.mixes:
        return Assembly(norm)
    wanted = read_by(whole.base_model, _reader(whole, anatomy, "middle"), tokens)
    for middle in _norms_making(whole, wanted, tokens):
        for normed in (True, False) if norm else (True,):
            plan = Assembly(norm, middle, normed)
            try:
                opening = opened(whole, anatomy, plan, length)
            except (AssertionError, RuntimeError, TypeError, ValueError):
                continue  # it computes otherwise, and shapes tell
            if near(opening.middles(tokens, causal=anatomy.causal), wanted):
                return plan
    return Assembly(norm)


def embedded(
    whole: Any, anatomy: Anatomy, plan: Assembly, positions: int, lease: Lease | None = None
) -> Entrance:
    """Return what block 0 reads of single tokens: in the open where the plan has its norm."""
    if plan.norm is not None:
        ids = torch.arange(whole.config.vocab_size, device=whole.device)
        return _embedded(whole, anatomy, plan, positions, ids, lease)
    return GraphEntry(
        base=whole.base_model,
        part=_reader(whole, anatomy, "hidden"),
        anatomy=anatomy,
        positions=positions if anatomy.positional else 1,
        lease=lease,
    )


@torch.no_grad()
def opened(
    whole: Any, anatomy: Anatomy, plan: Assembly, positions: int, lease: Lease | None = None
) -> Opening | RunOpening:
    """Return block 0 as the plan, which must have a middle, has it."""
    parts = dict(whole.named_modules())
    reads = anatomy.blocks[0].reads("hidden")
    maps = tuple(parts[read.name.removesuffix(".weight")] for read in reads)
    attention = Attention(whole.base_model, maps, anatomy.first_position)
    single = embedded(whole, anatomy, plan, positions, lease)
    zeros = torch.zeros(1, dtype=torch.int64)
    vectors = single.inputs(zeros, zeros)
    attended = attention.given(vectors, zeros)
    assert attended is not None
    heads, width = attended.given[0].shape[1], attended.given[2].shape[3]
    context = parts[anatomy.blocks[0].reads("context")[0].name.removesuffix(".weight")]
    output, bias = affine(context, heads * width, vectors)
    middle = Norm.of(parts[plan.middle or ""])
    if not isinstance(single, Embedded):
        return RunOpening(
            single=single, heads=attention.heads, scale=attended.scale, output=output,
            output_bias=bias, middle=middle, lease=lease,
        )  # fmt: skip
    return Opening(
        words=single.words, places=single.places, norm=single.norm, heads=attention.heads,
        scale=attended.scale, output=output, output_bias=bias, middle=middle, normed=plan.normed,
        lease=lease,
    )  # fmt: skip


def _reader(whole: Any, anatomy: Anatomy, place: Place) -> nn.Module:
    name = anatomy.blocks[0].reads(place)[0].name
    part: nn.Module = whole.get_submodule(name.removesuffix(".weight"))
    return part


@torch.no_grad()
def _embedded(
    whole: Any,
    anatomy: Anatomy,
    plan: Assembly,
    positions: int,
    ids: Tensor,
    lease: Lease | None = None,
) -> Embedded:
    """Return what the plan's norm reads of the tokens ``ids`` (V,), row by row."""
    base, norm = whole.base_model, whole.get_submodule(plan.norm)
    words = [read_by(base, norm, some[:, None])[:, 0] for some in ids.split(AT_ONCE)]
    places = torch.zeros_like(words[0][:1])
    if anatomy.positional:
        one = some_tokens(whole.config)[:, :1].to(ids)  # no padding: some count it as no position
        row = read_by(base, norm, one.expand(1, positions))[0]
        places = row - row[:1]
    return Embedded(words=torch.cat(words), places=places, norm=Norm.of(norm), lease=lease)


def _norms_making(whole: Any, wanted: Tensor, tokens: Tensor) -> Iterable[str]:
    """Return the names of the norms whose output is ``wanted``."""
    made: dict[str, Tensor] = {}
    hooks = [
        part.register_forward_hook(lambda _, __, result, name=name: made.setdefault(name, result))
        for name, part in whole.named_modules()
        if kind_of(part) is not None
    ]
    try:
        whole.base_model(input_ids=tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        name
        for name, result in made.items()
        if result.numel() == wanted.numel() and torch.equal(result.reshape(wanted.shape), wanted)
    ]
