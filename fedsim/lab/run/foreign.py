"""Captures of somebody else's project, as ours: names of weights, and how its clients train.

A fedsim app says which model it trains and how. Of any other the model is named on the command
line, and its arrays, whatever they are called, are held against that model's weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedsim.captures import Captured
from fedsim.errors import BadInput
from fedsim.lab.run.fitting import Fitting
from fedsim.lab.run.looks import looks_of
from fedsim.lab.run.named import checked_spec
from fedsim.lab.run.told import open_questions, training_config
from fedsim.messages import Broadcast, Update
from fedsim.models import ModelAdapter, ModelSpec, family_of, load_adapter
from fedsim.models.naming import Naming, Shape, find_naming
from fedsim.models.shapes import Shapes
from fedsim.types import Parameters


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A project's captures as those of a model.

    Attributes:
        adapter: the model, of which only what travels trains.
        naming: of its arrays.
        training: ``training.<key>``, said in place of what the project's broadcast says.
        examples: of each client in a round, in place of what it states; 0: nobody knows; None: as
            stated.
        notes: what a reader must know of it.
        misfits: in what the model may not be the project's, so that silence says nothing.
    """

    adapter: ModelAdapter
    naming: Naming
    training: Mapping[str, Any]
    examples: int | None
    notes: Sequence[str]
    misfits: Sequence[str]

    def doubts(self, first: Captured) -> list[str]:
        """Return why silence of an attack would say nothing, by one of the captures, as read."""
        config, kind = first.broadcast.config, first.update.kind
        told = list(self.misfits)
        if unsaid := open_questions(config, kind):
            told.append(f"how the clients train was not said ({', '.join(unsaid)})")
        looks = looks_of(first.update.tensors, first.broadcast.parameters, kind)
        if config.get("optimizer", "adamw") != "adamw" and looks.adam(kind):
            told.append("the updates look like Adam's steps, and training.optimizer is another")
        return told

    def read(self, captured: Captured) -> Captured:
        """Return a capture as fedsim's own client would have made it.

        Raises:
            BadInput: it holds other arrays than those that the naming is of.
        """
        sent, update = captured.broadcast, captured.update
        if lost := [name for name in self.naming.ours if name not in sent.parameters]:
            raise BadInput(
                f"captures: round {captured.round}, client {captured.client} was not sent "
                f"{lost[0]!r}, as others were"
            )
        parameters = self.naming.renamed(_floats(sent.parameters))
        slots = dict(self.adapter.module.named_parameters())
        moved = {
            name: tensor
            for name, tensor in self.naming.renamed(update.tensors).items()
            if name in slots and slots[name].requires_grad
        }
        config = training_config(sent.config, update.kind, self.training)
        return replace(
            captured,
            broadcast=Broadcast(round=sent.round, parameters=parameters, config=config),
            update=Update(
                tensors=moved,
                kind=update.kind,
                num_examples=update.num_examples if self.examples is None else self.examples,
                metrics=update.metrics,
            ),
        )


def fit(
    captured: Captured,
    given: Mapping[str, Any],
    training: Mapping[str, Any],
    examples: int | None = None,
) -> Fitted:
    """Return the captures of a project as those of the model that ``given`` names.

    Args:
        captured: one of them.
        given: the fields of a ModelSpec that were said; the others follow from the arrays.
        training: what was said of the clients' training.
        examples: see :class:`Fitted`.

    Raises:
        BadInput: the model has no place for the arrays, or they contradict what was said.
    """
    shapes = Shapes.of(_shapes(captured.broadcast.parameters))
    moved = [name for name, tensor in captured.update.tensors.items() if tensor.any()]
    best: tuple[tuple[int, int], ModelAdapter, Naming] | None = None
    refused: BadInput | None = None
    for spec in _candidates(given, shapes):
        try:
            adapter = load_adapter(spec)
            naming = find_naming(adapter.module, shapes.sent, moved)
        except BadInput as error:
            refused = refused or error
            continue
        rank = (len(naming.ours), -len(naming.left) - len(naming.lacking))
        if best is None or rank > best[0]:
            best = rank, adapter, naming
    if best is None:
        assert refused is not None
        raise refused
    _, adapter, naming = best
    found = Fitting(
        adapter=adapter,
        naming=naming,
        shapes=shapes,
        given=given,
        moved=moved,
        sent=captured.broadcast.parameters,
    )
    found.check()
    spec = found.spec()
    if spec != adapter.spec:
        adapter = load_adapter(spec)
    return Fitted(
        adapter=adapter,
        naming=naming,
        training=training,
        examples=examples,
        notes=found.notes(),
        misfits=found.misfits(),
    )


def _candidates(given: Mapping[str, Any], shapes: Shapes) -> Iterator[ModelSpec]:
    """Yield what the model may be, where ``given`` leaves it open, the likeliest first."""
    kind = family_of(given["name"])
    told: dict[str, Any] = {}
    if shapes.rank:
        told = {"lora_rank": shapes.rank, "use_dora": shapes.dora}
        for key, value in told.items():
            if given.get(key, value) != value:
                raise BadInput(
                    f"model.{key}: the captures hold LoRA's adapters with {key} {value!r}, got "
                    f"{given[key]!r}"
                )
    elif given.get("lora_rank"):
        raise BadInput(
            "model.lora_rank: the captures hold no adapters of LoRA, but weights of a whole model; "
            "leave it out"
        )
    targets = [shapes.targets] if shapes.targets else [(), *shapes.usual(kind.family)]
    tasks = [given["task"]] if "task" in given else list(kind.classes)
    for task in tasks:
        for some in targets if shapes.rank else [()]:
            fields = {"task": task, **told, "lora_targets": some, **given}
            head = kind.heads.get("classification", "") if hasattr(kind, "heads") else ""
            labels = {"num_labels": n} if (n := shapes.labels(head)) else {}
            yield checked_spec({**labels, **fields})


def _floats(parameters: Parameters) -> Parameters:
    return {name: tensor for name, tensor in parameters.items() if tensor.is_floating_point()}


def _shapes(parameters: Parameters) -> Mapping[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in _floats(parameters).items()}
