"""What a project of Flower's is here: its patches, and how it is run.

Patches make a project run offline and small, and note the truth; none touches how clients train but
those of the control, which say so. The tap's line is the documented one (docs/your-flower-project).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from field.rows import Rows, sentences
from field.sources import Patch

Draw = Callable[[int, int, int], list[Rows]]

TAP = "from fedsim.tap import tapped\n\napp = tapped(app, {captures!r})"
ROWS = "from field_texts import FederatedDataset  # noqa"
NET = "from field_texts import FederatedDataset, Net  # noqa"
NOTES = "from field_texts import truth  # noqa"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way in which a project is run.

    Attributes:
        name: "as it trains", or what the control is.
        why: what is other than as it trains.
        patches: beside the project's own.
        config: of its run, in place of its own.
        dropout: whether the model has its dropout.
        rows: of each client, before the project holds some out.
        draw: where they are from, a function of ``field.rows``.
        words: what whoever audits the project knows of it, as settings of ``fedsim attack``.
    """

    name: str
    why: str = ""
    patches: tuple[Patch, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    dropout: bool = True
    rows: int = 5
    draw: Draw = sentences
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project of Flower's repository.

    Attributes:
        name: of the row.
        example: the folder under ``examples/``.
        package: its module.
        model: whose weights the patches bring: minilm, its first two blocks (minilm-2) or stories.
        asks: packages that it imports and that may not be installed.
        patches: to run offline and small, and to note the truth.
        settings: of ``field_texts``.
        config: of its run, in place of its own.
        supernodes: clients that there are.
        variants: as it trains, and the control.
    """

    name: str
    example: str
    package: str
    model: str
    asks: tuple[str, ...]
    patches: tuple[Patch, ...]
    settings: Mapping[str, Any]
    variants: tuple[Variant, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    supernodes: int = 2


def notes(package: str, said: str, new: str) -> Patch:
    return Patch(
        file=f"{package}/client_app.py",
        why="the client notes what it trains on (TruthNotes)",
        top=NOTES,
        swaps=((said, new),),
    )


TRAIN = ("@app.train()", "@app.train(mods=[truth])")
CLIENT = ("client_fn=client_fn", "client_fn=client_fn, mods=[truth]")
STEPS = ("training.local_epochs=1", "training.mini_batch_size=32")
PLAIN = (*STEPS, "training.optimizer=sgd", "training.dropout=false")
NO_MOMENTUM = (("momentum=0.9", "momentum=0.0"),)
