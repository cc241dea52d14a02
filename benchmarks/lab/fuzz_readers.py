"""The files that are fuzzed, in real runs, and what reads them: as the commands would."""

import functools
import io
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

from attacks import attack_table
from clients.memory import ClientMemory
from defenses.base import Memory
from fedsim.captures import find_captures, read_capture
from fedsim.lab.cli import main
from fedsim.lab.compare import compare
from fedsim.lab.config import load_config
from fedsim.lab.config.recipes import read_recipe
from fedsim.lab.display import Silent
from fedsim.lab.gate import judge, read_policy
from fedsim.lab.report.run_page import run_page
from fedsim.lab.report.sweep_page import sweep_page
from fedsim.lab.run.experiment import summarize
from fedsim.lab.run.prepare import Experiment, prepare
from fedsim.lab.run.replay import prepare_replay, run_replay
from fedsim.lab.run.trackers import curves
from fedsim.lab.store.attack import open_run
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.sweep import read_end, read_results
from fedsim.lab.sweep.directory import Ledger, SweepDirectory
from fedsim.lab.sweep.overview import overview
from fedsim.lab.sweep.table import write_table
from fedsim.lab.terminal.run import print_table, print_utility, print_wire
from fedsim.lab.terminal.sweep import print_sweep
from fedsim.models import ModelSpec, load_adapter
from fedsim.models.families import preset
from fedsim.vault.keys import own_key

CONFIG = """name = "fuzzed"
seed = 3
[model]
name = "builtin:gpt2-tiny"
[data]
name = "builtin:clinic"
evaluate = 4
max_length = 12
[federation]
clients = 2
rounds = 2
[training]
batch_size = 2
[[defense]]
name = "topk"
fraction = 0.5
[[attack]]
name = "dager"
max_pairs = 50
rounds = [1, 2]
knowledge = { labels = true }
"""
POLICY = """[leakage.dager]
exact_match = { max = 0.05 }
rouge1 = { max = 20 }
[utility]
accuracy = { min = 0.5, max = 0.9 }
[guarantee]
epsilon = { max = 8 }
delta = { max = 1e-5 }
[verdict]
allow = ["no-leak"]
"""
WORDS = """training.batch_size=8
attack=[{name="dager", rounds=[1]}]
defense=none
model.freeze=["embeddings"]
federation.strategy_options={eta = 0.1}
name=mine
"""
RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "dager-table2-small.paper.json"


@dataclass(frozen=True)
class Scene:
    """A folder with a run, an attack on it, a sweep, a model, a policy."""

    root: Path

    @property
    def run(self) -> RunDirectory:
        """The run."""
        return RunDirectory(self.root / "run")

    @property
    def sweep(self) -> Path:
        """The sweep."""
        return self.root / "sweep"

    def contents(self) -> dict[Path, tuple[bytes, object]]:
        """Return all that a reader may write to, or the fuzzer has, and when it was written."""
        return {path: (path.read_bytes(), _stamp(path)) for path in self._files()}

    def restore(self, kept: dict[Path, tuple[bytes, object]]) -> None:
        """Have every file say again what it said; ``kept`` is brought up to date."""
        for path, (data, stamp) in kept.items():
            if _stamp(path) != stamp:
                path.unlink(missing_ok=True)
                path.write_bytes(data)
                kept[path] = data, _stamp(path)
        for path in self._files():
            if path not in kept:
                path.unlink()

    def _files(self) -> list[Path]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        return [path for path in files if path.name != ".lock"]


def _stamp(path: Path) -> object:
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What reads some files, and what is in them."""

    name: str
    files: Callable[[Scene], Sequence[Path]]
    kind: str  # json | lines | toml | bytes
    read: Callable[[Scene], object]
    special: bool = True  # a pipe or a folder may be in their place


def build(root: Path) -> Scene:
    """Make the scene: a run of seconds, a sweep of two."""
    root.mkdir(parents=True)
    scene = Scene(root)
    (root / "config.toml").write_text(CONFIG)
    (root / "policy.toml").write_text(POLICY)
    (root / "words.txt").write_text(WORDS)
    (root / "name.txt").write_text("round=7.safetensors")
    shutil.copy(RECIPE, root / "paper.json")
    model = root / "model"
    AutoModelForSequenceClassification.from_config(preset("gpt2-tiny")).save_pretrained(model)
    load_adapter(ModelSpec(name="builtin:gpt2-tiny")).tokenizer.save_pretrained(model)
    config = str(root / "config.toml")
    with redirect_stdout(io.StringIO()):
        run, attack, sweep = (str(root / name) for name in ("run", "attack", "sweep"))
        main(["run", config, "--out", run, "--json"])
        main(["attack", run, "--attack", "dager", "--out", attack, "--json"])
        main(["sweep", config, "attack.max_pairs=5,50", "--out", sweep, "--json"])
    for path in scene.run.vault.rglob("*.jsonl"):
        if path.parent.name != "round=1":  # as in runs from before vaults were sealed
            place = path.relative_to(scene.run.vault).as_posix()
            path.write_bytes(own_key().opened(path.read_bytes(), place))
    memory = ClientMemory.beside(scene.run.vault)
    memory.note(0, 1, [Memory(tensors={"w": torch.ones(2)}, values={"steps": 3.0})])
    return scene


@functools.cache
def _experiment(config: Path) -> Experiment:
    return prepare(load_config(config, []))


# What reads


def _config(scene: Scene) -> None:
    load_config(scene.root / "config.toml", [])


def _words(scene: Scene) -> None:
    words = (scene.root / "words.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    load_config(None, words)


def _policy(scene: Scene) -> None:
    policy = read_policy(scene.root / "policy.toml", attack_table(), ())
    judge(policy, "", scene.run.summary())


def _shown(scene: Scene) -> None:
    """Do as report, compare, gate and the terminal do, but for the drawing."""
    for root in (scene.run.root, scene.root / "attack"):
        run = open_run(root)
        run_page(run, redact=False)
        compare([root, root])
        summary = run.summary()
        judge(read_policy(scene.root / "policy.toml", attack_table(), ()), "", summary)
        print_table(summary)
        if summary.utility:
            print_utility(summary.utility)
        if summary.wire:
            print_wire(summary.wire)
        list(curves(run.rounds(), summary))


def _attack(scene: Scene) -> None:
    run_page(open_run(scene.root / "attack"), redact=False)


def _scored(scene: Scene) -> None:
    """Do as the end of a run does."""
    made = replace(_experiment(scene.root / "config.toml"), pool=tuple(scene.run.pool()))
    summarize(made, scene.run, quick=False)


def _rounds(scene: Scene) -> None:
    _scored(scene)
    scene.run.forget_after(1)


def _sweep(scene: Scene) -> None:
    directory = SweepDirectory(scene.sweep)
    plan = directory.plan()
    sweep = Ledger(directory, plan).sweep()
    read_results(scene.sweep)
    for cell in sweep.cells:
        read_end(directory.cell(cell.name))
    write_table(directory, sweep)
    print_sweep(overview(directory, sweep))
    sweep_page(scene.sweep, redact=False)


def _captures(scene: Scene) -> None:
    replay = prepare_replay(scene.run.root, "dager", [], scene.root / "again")
    for where in find_captures(scene.run.root):
        read_capture(where)
    if len(replay.captures) < 4:  # one is gone; else too slow
        run_replay(replay, Silent(), quick=True)


def _checkpoints(scene: Scene) -> None:
    folder = scene.run.checkpoints
    name = (scene.root / "name.txt").read_text(encoding="utf-8", errors="replace")
    kept = max(path for path in folder.glob("*.safetensors") if path.is_file())
    if name and "/" not in name and "\0" not in name and len(name.encode()) < 200:
        shutil.copy(kept, folder / name)
    scene.run.latest(99)


def _memory(scene: Scene) -> None:
    memory = ClientMemory.beside(scene.run.vault)
    memory.before(0, 9, 1)
    memory.note(0, 2, [Memory(values={"steps": 1.0})])


def _model(scene: Scene) -> None:
    adapter = load_adapter(ModelSpec(name=str(scene.root / "model")))
    adapter.tokenizer("a text")
    adapter.initial_parameters()


def _each(pattern: str) -> Callable[[Scene], Sequence[Path]]:
    return lambda scene: sorted(path for path in scene.root.glob(pattern) if path.is_file())


_ALL = (
    Reader(name="config", files=_each("config.toml"), kind="toml", read=_config),
    Reader(name="overrides", files=_each("words.txt"), kind="bytes", read=_words, special=False),
    Reader(name="policy", files=_each("policy.toml"), kind="toml", read=_policy),
    Reader(name="saved config", files=_each("run/config.toml"), kind="toml", read=_shown),
    Reader(name="sweep.json", files=_each("sweep/sweep.json"), kind="json", read=_sweep),
    Reader(name="cell.json", files=_each("sweep/cells/*/cell.json"), kind="json", read=_sweep),
    Reader(name="rounds.jsonl", files=_each("run/rounds.jsonl"), kind="lines", read=_rounds),
    Reader(name="reconstructions.jsonl", files=_each("run/reconstructions.jsonl"), kind="lines",
           read=_scored),
    Reader(name="samples.jsonl", files=_each("run/samples.jsonl"), kind="lines", read=_shown),
    Reader(name="summary.json", files=_each("run/summary.json"), kind="json", read=_shown),
    Reader(name="vault", files=_each("run/vault/round=2/*.jsonl"), kind="lines", read=_scored),
    Reader(name="sealed vault", files=_each("run/vault/round=1/*"), kind="bytes", read=_scored),
    Reader(name="pool", files=_each("run/vault/pool.jsonl"), kind="lines", read=_scored),
    Reader(name="audit", files=_each("run/audit/round=*/*.json"), kind="json", read=_scored),
    Reader(name="observation.json", files=_each("run/captures/*/*/observation.json"), kind="json",
           read=_captures),
    Reader(name="tensors", files=_each("run/captures/*/*/*.safetensors"), kind="bytes",
           read=_captures),
    Reader(name="checkpoints", files=_each("run/checkpoints/*"), kind="bytes", read=_checkpoints),
    Reader(name="checkpoint names", files=_each("name.txt"), kind="bytes", read=_checkpoints,
           special=False),
    Reader(name="memory", files=_each("run/memory/*/*"), kind="bytes", read=_memory),
    Reader(name="manifest.json", files=_each("run/manifest.json"), kind="json", read=_shown),
    Reader(name="attack.json", files=_each("attack/attack.json"), kind="json", read=_attack),
    Reader(name="recipe", files=_each("paper.json"), kind="json",
           read=lambda scene: read_recipe(scene.root / "paper.json")),
    Reader(name="model directory", files=_each("model/*.json"), kind="json", read=_model),
)  # fmt: skip
READERS = {reader.name: reader for reader in _ALL}
