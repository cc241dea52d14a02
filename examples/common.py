"""What the examples share: texts, a small model on disk, and clients in this process.

A project that ``flwr run`` starts has none of this: Flower brings the clients, and the project its
own model and data.
"""

import argparse
import shlex
import shutil
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedsim.flower import set_identity
from fedsim.lab.engines.inline import InlineGrid
from fedsim.models import ModelSpec, load_adapter
from fedsim.models.spec import Task

Row = tuple[str, int]  # a text and its label
ROWS: Sequence[Sequence[Row]] = [  # a client's each
    [("The spare key hangs behind the clock.", 0), ("Orla owes the baker nine coins.", 1)],
    [("Tomas sold his boat last winter.", 0), ("Mina leaves for the coast at dawn.", 1)],
    [("Ivo hides his letters under the piano.", 1), ("The vault opens on Thursdays only.", 0)],
]


class Nodes(InlineGrid):
    """Clients in this process, one at a time: Flower's legacy API asks each from a thread."""

    def __init__(self, client: ClientApp, clients: int) -> None:
        super().__init__(client, clients)
        self._turn = threading.Lock()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        with self._turn:
            return super().push_messages(messages)


def run(server: ServerApp, client: ClientApp, clients: int = len(ROWS)) -> None:
    """Run both apps, as a simulation of Flower's would."""
    set_identity()
    server(Nodes(client, clients), Context(1, 0, {}, RecordDict(), {}))


def partition(context: Context) -> int:
    """Return which of the rows are a client's own."""
    return int(context.node_config["partition-id"])


def options(about: str, preset: str, task: Task = "classification") -> argparse.Namespace:
    """Return what the command line says; ``model`` is a directory, made where none is named."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("work", type=Path, help="a directory for the captures")
    parser.add_argument("--model", help="a local model, in place of a tiny one of random weights")
    parser.add_argument("--plain", action="store_true", help="the control: plain SGD, no dropout")
    said = parser.parse_args()
    said.work = said.work.absolute()
    for name in ("captures", "truth"):  # of an earlier run
        shutil.rmtree(said.work / name, ignore_errors=True)
    said.model = said.model or made_model(said.work / "model", preset, task)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    return said


def made_model(directory: Path, preset: str, task: Task) -> str:
    """Save one of fedsim's presets, weights and tokenizer, as any project has its model."""
    adapter = load_adapter(ModelSpec(name=f"builtin:{preset}", task=task))
    adapter.module.save_pretrained(directory)
    adapter.tokenizer.save_pretrained(directory)
    return str(directory)


def say_next(said: argparse.Namespace, *words: str) -> None:
    """Print the two commands that look at what was captured."""
    captures = said.work / "captures"
    truth = said.work / "truth"
    print(shlex.join(["fedsim", "inspect", str(captures)]))
    attack = ["fedsim", "attack", str(captures), "--attack", "dager", f"model.name={said.model}"]
    print(shlex.join([*attack, *words, *(["--truth", str(truth)] if truth.is_dir() else [])]))
