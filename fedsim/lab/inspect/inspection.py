"""One look at a directory of captures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attacks.dager.spectrum import most_inputs
from fedsim.captures import (
    Captured,
    CapturePath,
    captured_node,
    find_captures,
    is_masked,
    noted,
    read_capture,
)
from fedsim.lab.inspect.parts import family_of, find_parts
from fedsim.lab.inspect.shown import InputsShown, shown_inputs
from fedsim.lab.run.looks import Looks, astray, looks_of
from fedsim.lab.run.told import open_questions, training_config
from fedsim.models.shapes import UP, Shapes
from fedsim.training import TrainingSettings
from fedsim.types import Parameters

LOOKED = 8  # captures whose values are looked at, evenly over all


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
        width: in how many they can: D, or LoRA's rank.
        most: up to how many of those dager can tell from noise.
        filled: in how many captures they fill all dimensions.
        crowded: in how many others they are more than ``most``.
        vague: in how many others nothing shows where they end.
        lacking: in how many the arrays are not there that dager needs.
        broken: in how many there are NaN or infinite values.
        adam: how many look like Adam's steps.
        steps: as many local ones does a client take, as far as the server said so; 0: unknown.
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
    most: int
    filled: int
    crowded: int
    vague: int
    lacking: int
    broken: int
    adam: int
    steps: int
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
    seen = [_seen(one, shapes) for one in some]
    shown = [one.shown for one in seen if one.shown is not None]
    width = shapes.rank or shapes.width
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
        family=family_of(shapes.sent),
        arrays=len(shapes.sent),
        settings=config,
        unsaid=open_questions(config, some[0].update.kind) if some else [],
        rank=[one.rank for one in shown],
        width=width,
        most=most_inputs(width),
        filled=sum(one.filled for one in shown),
        crowded=sum(one.crowded for one in shown),
        vague=sum(one.blurred for one in shown),
        lacking=sum(one.lacking for one in seen),
        broken=sum(not one.looks.finite for one in seen),
        adam=sum(one.adam for one in seen),
        steps=_steps(config, max(stated, default=0)),
        hidden=dict(Counter(word for one in seen for word in one.words)),
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


@dataclass(frozen=True, kw_only=True)
class LookedAt:
    """One capture, looked at."""

    looks: Looks
    shown: InputsShown | None
    adam: bool
    lacking: bool
    words: Sequence[str]


def _seen(captured: Captured, shapes: Shapes) -> LookedAt:
    update, sent = captured.update, captured.broadcast.parameters
    looks = looks_of(_matrices(update.tensors, shapes), _matrices(sent, shapes), update.kind)
    moved = {name for name, t in update.tensors.items() if name in shapes.sent and t.any()}
    parts = find_parts(shapes, moved)
    shown = shown_inputs(captured, shapes, parts, looks)
    words = [*astray(sent)]
    words += looks.words(update.kind, blurred=shown is not None and shown.blurred)
    words += [parts.lacks] if parts.lacks and looks.finite else []
    if _settings(captured).get("dropout") is True:
        words.append(
            "dropout is on, as the server says: of a model that has any dager reads nothing"
        )
    adam, lacking = looks.adam(update.kind), bool(parts.lacks)
    return LookedAt(looks=looks, shown=shown, adam=adam, lacking=lacking, words=words)


def _steps(settings: Mapping[str, Any], examples: int) -> int:
    """Return how many steps a client of so many examples takes; 0: that was not said."""
    said = "max_steps" in settings or {"local_epochs", "mini_batch_size"} <= settings.keys()
    if settings.get("algorithm") != "fedavg" or not said or not examples:
        return 0
    return TrainingSettings.from_config(settings).steps(examples)


def _matrices(tensors: Parameters, shapes: Shapes) -> Parameters:
    """Return the arrays that are weights; of a list LoRA's B are named as such."""
    ups = {name for name in shapes.sent if shapes.listed and shapes.rank and shapes.is_up(name)}
    return {
        f"{name}{UP}weight" if name in ups else name: tensor
        for name, tensor in tensors.items()
        if name in shapes.sent
    }
