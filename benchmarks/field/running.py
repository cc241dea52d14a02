"""A project in a folder of its own: its model, its rows, its patches, and a simulation of it."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common.places import DATA
from field.recipes import TAP, Project, Variant
from field.sources import Checkout, Patch, bring
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import AutoModelForSequenceClassification as Classifier

from fedsim.rng import global_stream

LIMIT = 1500  # seconds that a simulation may take
LENGTH = 24  # tokens that a text is padded to where the project has images
MODELS = {
    "minilm": DATA / "models" / "all-MiniLM-L6-v2-fp16",
    "stories": DATA / "models" / "stories260K-hf",
}
CHILD = "from field.simulate import main; main()"


def absent_of(project: Project) -> list[str]:
    """Return which of the packages that a project imports are not installed."""
    return [name for name in project.asks if importlib.util.find_spec(name) is None]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A simulation that is over.

    Attributes:
        folder: the project's.
        ended: whether it came to its own end.
        error: the last lines of what it said, where it did not.
        seconds: by the clock, with the start of Ray.
        captures: where the tap's are.
        truth: where the clients' notes are.
        model: the directory of the model that it trained.
    """

    folder: Path
    ended: bool
    error: str
    seconds: float
    captures: Path
    truth: Path
    model: Path

    def witness(self) -> list[dict[str, Any]]:
        """Return what Flower's FedAvg was given and made of it, a round a line."""
        path = self.folder / "witness.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]


@dataclass(frozen=True)
class Workplace:
    """Where a project is run in one of its variants."""

    work: Path
    project: Project
    variant: Variant
    checkout: Checkout
    seed: int

    @property
    def patches(self) -> list[Patch]:
        """All that is changed but for the tap's line."""
        return [*self.project.patches, *self.variant.patches]

    @property
    def config(self) -> Mapping[str, Any]:
        """What is said in place of the project's own config."""
        return {**self.project.config, **self.variant.config}

    @property
    def model(self) -> Path:
        """Where its model is."""
        return self.work / "model"

    def words(self) -> list[str]:
        """Return what an auditor knows of the project, as ``fedsim attack`` is told it."""
        return [f"model.name={self.model}", *self.variant.words]

    def run(self, name: str, *, tap: bool) -> Ran:
        """Run it to its end, or to the limit, with the tap's line or without."""
        if not self.model.exists():
            save_model(self.project.model, self.model, self.variant.dropout, self.seed)
        folder, captures = self.work / name, self.work / f"{name}-captures"
        truth = self.work / f"{name}-truth"
        self._prepare(folder, truth)
        if tap:
            file = f"{self.project.package}/server_app.py"
            Patch(file=file, why="", end=TAP.format(captures=str(captures))).apply(folder)
        code, said, seconds = simulate(folder, self._spec())
        (folder / "log.txt").write_text(said, encoding="utf-8")
        ended = code == 0 and (folder / "ended").exists() and (folder / "witness.jsonl").exists()
        return Ran(
            folder=folder,
            ended=ended,  # Flower goes on where all clients fail, and ends with nothing made
            error="" if ended else "\n".join(said.splitlines()[-8:]),
            seconds=seconds,
            captures=captures,
            truth=truth,
            model=self.model,
        )

    def _spec(self) -> dict[str, Any]:
        filled = {
            key: value.format(model=self.model) if isinstance(value, str) else value
            for key, value in self.config.items()
        }
        return {"config": filled, "supernodes": self.project.supernodes, "seed": self.seed}

    def _prepare(self, folder: Path, truth: Path) -> None:
        self.checkout.copy(self.project.example, folder)
        bring(folder, absent_of(self.project))
        for patch in self.patches:
            patch.apply(folder)
        rows = self.variant.draw(self.project.supernodes, self.variant.rows, self.seed)
        settings = {
            "truth": str(truth), "model": str(self.model), "seed": self.seed, "image": "",
            "frozen": False, "length": LENGTH, **self.project.settings,
        }  # fmt: skip
        for name, value in {"field": settings, "field_rows": rows}.items():
            (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def save_model(name: str, directory: Path, dropout: bool, seed: int) -> None:
    """Save a model with its tokenizer as a project would name it: a whole one, head and all."""
    where = MODELS[name.removesuffix("-2")]
    kind = AutoModelForCausalLM if name == "stories" else Classifier
    fewer = {"num_hidden_layers": 2} if name == "minilm-2" else {}
    with global_stream(seed, "field", name):  # a classifier's head is new
        model = kind.from_pretrained(where, **fewer)
    tokenizer = AutoTokenizer.from_pretrained(where)
    for key in () if dropout else ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(model.config, key):
            setattr(model.config, key, 0.0)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def simulate(folder: Path, spec: Mapping[str, Any]) -> tuple[int, str, float]:
    """Run the project in ``folder``; return the exit code, what it said, and seconds it took.

    Two Rays at once hang here: it waits until no other is there.
    """
    while rays():
        time.sleep(5)
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    begun = time.perf_counter()
    paths = [str(folder), *os.environ["PYTHONPATH"].split(os.pathsep)]
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CHILD, str(folder), str(folder / "spec.json")],
            cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode(errors="replace") if late.stdout else ""  # bytes, even of text
        return 124, f"{said}\nnot at its end after {LIMIT} s", float(LIMIT)
    return done.returncode, done.stdout, round(time.perf_counter() - begun, 1)


def rays() -> list[int]:
    """Return the processes that are a node of Ray."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            alive = path.with_name("cmdline").read_bytes()  # nothing, once it has ended
            if path.read_text().strip() == "raylet" and alive:
                found.append(int(path.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def same_parameters(one: Ran, other: Ran) -> dict[str, Any]:
    """Return whether two runs ended in the same parameters, and by how much they differ."""
    if not other.ended:
        return {"same": False, "error": other.error}
    digests = [[line["digest"] for line in ran.witness()] for ran in (one, other)]
    a, b = (np.load(ran.folder / "final.npy") for ran in (one, other))
    differ = float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else None
    return {
        "same": digests[0] == digests[1],
        "rounds": len(digests[0]),
        "largest_difference": differ,
    }
