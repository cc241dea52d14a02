"""The locks on the truth: a test tries to cheat in each way, and fails.

Types, imports, copies, replay, mount; the process in `tests/lab/isolation`. The docs say what for.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim.captures import place, write_capture
from fedsim.errors import MalformedMessage
from fedsim.flower import empty_run, set_identity, stamp
from fedsim.messages import Broadcast, Reconstruction, Update
from fedsim.models import ModelSpec, load_adapter
from fedsim.vault.keys import own_key
from fedsim.vault.writer import VaultWriter
from fedsim.wire import to_arrays
from server import Exchange, TapGrid
from server.strategies import make_strategy

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedsim", "attacks", "defenses", "clients", "server")
SECRET: Any = "The patient is Ada Lovelace."

# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cheat",
    [
        lambda: Update(tensors={}, kind="delta", num_examples=1, metrics={"note": SECRET}),
        lambda: Update(tensors={}, kind=SECRET, num_examples=1),
        lambda: Reconstruction(sequences=(SECRET,)),
        lambda: Reconstruction(sequences=(), diagnostics={"note": SECRET}),
    ],
)
def test_types_no_message_takes_text(cheat: Callable[[], object]) -> None:
    with pytest.raises(MalformedMessage):
        cheat()


# --- imports --------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the sources, to add a line to."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def add(file: Path, line: str) -> None:
    with file.open("a") as source:  # a file that is not there is made
        source.write(f"\n{line}\n")


def lint(root: Path) -> tuple[bool, str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=1200, check=False
    )
    return done.returncode == 0, done.stdout + done.stderr


def test_imports_the_sources_as_they_are_keep_every_contract(copy: Path) -> None:
    kept, said = lint(copy)
    assert kept, said
    assert "0 broken" in said


def test_imports_the_lowest_layer_is_all_of_fedsim_but_the_lab() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lowest = contracts["tool"]["importlinter"]["contracts"][0]["layers"][-1]
    held = {path.stem for path in (ROOT / "fedsim").iterdir()
            if path.suffix == ".py" or (path / "__init__.py").exists()}  # fmt: skip
    wanted = {f"fedsim.{name}" for name in held - {"__init__", "lab"}}
    assert {name.strip() for name in lowest.split(":")} == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "chain"),
    [
        (
            "attacks/dager/attack.py",
            "import clients.corpus",
            "attacks.dager.attack -> clients.corpus",
        ),
        (
            "attacks/dager/span.py",
            "from fedsim.vault import reader",
            "attacks.dager.span -> fedsim.vault",
        ),
        ("attacks/base.py", "from fedsim.lab import scoring", "attacks.base -> fedsim.lab"),
        ("attacks/cheat.py", "import defenses.none", "attacks.cheat -> defenses.none"),
        ("server/grids.py", "import fedsim.vault.reader", "server.grids -> fedsim.vault.reader"),
        ("fedsim/models/base.py", "import fedsim.vault.reader", "fedsim.vault.reader"),
        ("fedsim/captures.py", "import clients.data", "fedsim.captures -> clients.data"),
        ("fedsim/observing.py", "import attacks", "fedsim.observing -> attacks"),
        ("clients/app.py", "import fedsim.vault.reader", "clients.app -> fedsim.vault.reader"),
        ("clients/app.py", "import fedsim.vault.keys", "clients.app -> fedsim.vault.keys"),
        (
            "attacks/worker/serving.py",
            "import fedsim.vault.sealing",
            "attacks.worker.serving -> fedsim.vault.sealing",
        ),
        ("attacks/dager/span.py", "import fedsim.wire", "attacks.dager.span -> fedsim.wire"),
        ("attacks/dager/span.py", "import fedsim.flower", "attacks.dager.span -> fedsim.flower"),
        ("attacks/dager/span.py", "import fedsim.tap", "attacks.dager.span -> fedsim.tap"),
        ("fedsim/tap/grid.py", "import torch", "fedsim.tap.grid -> torch"),
        ("fedsim/files.py", "import torch", "fedsim.files -> torch"),
        ("fedsim/evidence.py", "import fedsim.types", "fedsim.evidence -> fedsim.types"),
        ("attacks/tag.py", "from flwr.app import Message", "attacks.tag -> flwr"),
        ("attacks/reads/gradient.py", "import ray", "attacks.reads.gradient -> ray"),
        ("fedsim/models/base.py", "import flwr", "fedsim.models.base -> flwr"),
    ],
)
def test_imports_one_line_towards_the_truth_breaks_a_contract(
    copy: Path, file: str, line: str, chain: str
) -> None:
    add(copy / file, line)
    kept, said = lint(copy)
    assert not kept and chain in said, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("attacks/base.py", "import attacks.reads.decay", "Within attacks"),
        ("attacks/reads/labels.py", "import attacks.matching.frame", "Within attacks"),
        ("attacks/partial.py", "import attacks.worker.task", "Within attacks"),
        ("attacks/dager/inputs.py", "import attacks.matching.frame", "Within attacks"),
        ("attacks/matching/frame.py", "import attacks.dager.span", "Within attacks"),
        ("attacks/matching/prior.py", "import attacks.lamp", "Within attacks"),
        ("attacks/anew.py", "import fedsim.types", "Within attacks"),  # in no layer
        ("fedsim/observing.py", "import clients", "Imports point down"),
        ("fedsim/headers.py", "import defenses.topk", "Imports point down"),
        ("fedsim/training.py", "import server", "Imports point down"),
        ("fedsim/types.py", "import fedsim.messages", "Within fedsim:"),
        ("fedsim/models/trunk.py", "import fedsim.messages", "Within fedsim:"),
        ("fedsim/wire.py", "import fedsim.captures", "Within fedsim:"),
        ("fedsim/anew.py", "import fedsim.types", "Within fedsim:"),  # in no layer
        ("fedsim/lab/config/schema.py", "import fedsim.lab.store.run", "Within fedsim.lab"),
        ("fedsim/lab/store/samples.py", "import fedsim.lab.scoring.metrics", "Within fedsim.lab"),
        ("fedsim/lab/store/run.py", "import fedsim.lab.run.prepare", "Within fedsim.lab"),
        ("fedsim/lab/engines/base.py", "import fedsim.lab.run.prepare", "Within fedsim.lab"),
        ("fedsim/lab/run/prepare.py", "import fedsim.lab.terminal.run", "Within fedsim.lab"),
        ("fedsim/lab/sweep/grid.py", "import fedsim.lab.terminal.marks", "Within fedsim.lab"),
        ("fedsim/lab/report/words.py", "import fedsim.lab.gate.judge", "Within fedsim.lab"),
        ("fedsim/lab/anew.py", "import fedsim.types", "Within fedsim.lab"),
        ("defenses/base.py", "import defenses.topk", "No circles"),
        ("defenses/base.py", "def later():\n    import defenses.topk", "No circles"),
        (
            "attacks/dager/span.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import attacks.dager.attack",
            "No circles",
        ),
    ],
)
def test_imports_one_line_up_or_round_breaks_a_contract(
    copy: Path, file: str, line: str, contract: str
) -> None:
    add(copy / file, line)
    _, said = lint(copy)
    names = [part.rsplit("KEPT", 1)[-1] for part in " ".join(said.split()).split("BROKEN")[:-1]]
    assert any(f" {contract}" in name for name in names), said


# --- copies ---------------------------------------------------------------------------------------


class FakeGrid(Grid):
    """Answers every message with the reply it was given for that node."""

    def __init__(self, replies: dict[int, RecordDict]) -> None:
        self.replies = replies
        self.given: list[Message] = []
        set_identity()

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        return empty_run()

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.replies)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        for place_, message in enumerate(messages):
            stamp(message, f"m{place_}")
            content = self.replies[message.metadata.dst_node_id]
            self.given.append(Message(content, reply_to=message))
        return list(self.given)


def bits(content: RecordDict) -> dict[str, Any]:
    """Return all that ``content`` says, as plain values."""
    return {
        key: {name: (a.dtype, tuple(a.shape), a.stype, a.data) for name, a in record.items()}
        if isinstance(record, ArrayRecord)
        else dict(record)
        for key, record in content.items()
    }


def drawn(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(5, 3, generator=generator), "b": torch.randn(3, generator=generator)}


def stock_reply(seed: int) -> RecordDict:
    metrics = MetricRecord({"num-examples": 2 + seed, "loss": 0.5, "history": [1.0, 2.0]})
    return RecordDict({"arrays": to_arrays(drawn(seed)), "metrics": metrics})


def one_round(hooks: Sequence[Callable[[Any], None]]) -> tuple[list[Any], Any, list[Any]]:
    """Return what the strategy got, what FedAvg made of it, and what had been sent, after it."""
    grid = FakeGrid({node: stock_reply(node) for node in (7, 8, 9)})
    config = ConfigRecord({"server-round": 1, "lr": 0.5, "many": [1, 2]})
    sent = RecordDict({"arrays": to_arrays(drawn(0)), "config": config})
    messages = [Message(sent, node, "train") for node in (7, 8, 9)]
    replies = list(TapGrid(grid, hooks).send_and_receive(messages))
    got = [bits(reply.content) for reply in replies]
    arrays, metrics = make_strategy("fedavg", {}).aggregate_train(1, replies)
    assert arrays is not None and metrics is not None
    made = bits(RecordDict({"arrays": arrays, "metrics": metrics}))
    return got, made, [bits(message.content) for message in messages]


def contents(exchanges: Sequence[Exchange]) -> Iterable[RecordDict]:
    for one in exchanges:
        yield one.sent
        if one.received is not None:
            yield one.received


def zero_arrays(exchanges: Sequence[Exchange]) -> None:
    """Write into the numbers themselves."""
    for content in contents(exchanges):
        for record in content.array_records.values():
            for array in record.values():
                view = array.numpy()
                if view.flags.writeable:
                    view[...] = 0.0
                raw = np.frombuffer(array.data, dtype=np.uint8)
                if raw.flags.writeable:
                    raw[...] = 0


def settings(content: RecordDict) -> list[Any]:
    return [*content.metric_records.values(), *content.config_records.values()]


def replace_data(exchanges: Sequence[Exchange]) -> None:
    """Replace what an array holds, down to its bytes and its shape."""
    for content in contents(exchanges):
        for record in content.array_records.values():
            for array in record.values():
                array.data = b"\0" * len(array.data)
                array.shape, array.dtype, array.stype = (1,), "int8", "nothing"


def replace_arrays(exchanges: Sequence[Exchange]) -> None:
    """Replace arrays in their records."""
    for content in contents(exchanges):
        for record in content.array_records.values():
            for name in list(record):
                record[name] = to_arrays({"x": torch.zeros(2)})["x"]
            record.clear()


def rewrite_metrics(exchanges: Sequence[Exchange]) -> None:
    """Change every metric and every setting."""
    for content in contents(exchanges):
        for record in settings(content):
            for key in list(record):
                record[key] = 0
            record.clear()


def reach_into_lists(exchanges: Sequence[Exchange]) -> None:
    """Change metrics and settings that are lists, from within."""
    for content in contents(exchanges):
        for record in settings(content):
            for value in record.values():
                if isinstance(value, list):
                    value.clear()


def empty_everything(exchanges: Sequence[Exchange]) -> None:
    """Throw away records, then the exchanges."""
    for content in contents(exchanges):
        for key in list(content):
            del content[key]
    for one in exchanges:
        for name in ("sent", "received", "round", "client"):
            object.__setattr__(one, name, None)
    exchanges.clear()  # type: ignore[attr-defined]


VANDALS = [
    zero_arrays,
    replace_data,
    replace_arrays,
    rewrite_metrics,
    reach_into_lists,
    empty_everything,
]


@pytest.mark.parametrize("vandal", VANDALS)
def test_copies_a_vandal_leaves_the_round_bit_identical(vandal: Callable[[Any], None]) -> None:
    calls: list[int] = []

    def counted(exchanges: Sequence[Exchange]) -> None:
        calls.append(len(exchanges))
        vandal(exchanges)

    assert one_round([counted]) == one_round([])
    assert calls == [3]  # it did see the round


def test_copies_no_record_that_is_shown_is_one_that_travels() -> None:
    shown: list[Any] = []
    grid = FakeGrid({7: stock_reply(7)})
    sent = RecordDict({"arrays": to_arrays(drawn(0)), "config": ConfigRecord({"many": [1, 2]})})
    messages = [Message(sent, 7, "train")]
    (reply,) = TapGrid(grid, [shown.extend]).send_and_receive(messages)
    (seen,) = shown
    for one, other in ((seen.sent, messages[0].content), (seen.received, reply.content)):
        assert bits(one) == bits(other) and one is not other
        for key, record in one.items():
            assert record is not other[key]
            for name, value in record.items():
                if not isinstance(value, (int, float, str, bytes)):  # those cannot change
                    assert value is not other[key][name]


# --- replay ---------------------------------------------------------------------------------------

CHEATS = {
    "nothing": "pass",  # the same attack without a line that cheats goes through
    "import": "from clients.data import load_corpus",
    "late import": "__import__('importlib').import_module('clients.corpus').clinic()",
    "vault": "import fedsim.vault.reader",
    "flower": "import fedsim.wire",
}
REPLAY = f"""
import json, sys
for name in ("clients", "flwr", "ray", "fedsim.vault", "fedsim.lab"):
    sys.modules[name] = None
from attacks import Attack
from fedsim.messages import Reconstruction

class Cheat(Attack):
    families = ("gpt2",)
    def _run(self, seen, generator):
        exec(seen.line)
        return Reconstruction(sequences=((1, 2),))

class Seen:  # an observation of nothing: a cheat needs none of it
    class update: tensors = {{}}
    class broadcast: parameters = {{}}
    class model: vocabulary = 9
    class knowledge: candidates = None

said = {{}}
for name, Seen.line in {CHEATS!r}.items():
    try:
        said[name] = str(Cheat().reconstruct(Seen, None).sequences)
    except Exception as error:
        said[name] = repr(error)
print(json.dumps(said))
"""


@pytest.mark.slow
def test_replay_an_attack_that_needs_the_clients_fails_without_them() -> None:
    command = [sys.executable, "-c", REPLAY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.pop("nothing") == "((1, 2),)"
    blocked = {"import": "clients", "late import": "clients", "vault": "vault", "flower": "flwr"}
    assert list(said) == list(blocked)
    for name, module in blocked.items():
        assert said[name].startswith("ModuleNotFoundError") and module in said[name]


# --- mount ----------------------------------------------------------------------------------------


def mounts(service: dict[str, Any]) -> list[tuple[PurePosixPath, bool]]:
    """Return (source, read-only) of each mount; a relative source is under the project."""
    found = []
    for one in service.get("volumes", []):
        if isinstance(one, dict):
            found.append((PurePosixPath(one["source"]), bool(one.get("read_only"))))
        else:
            source, _, *options = str(one).split(":")
            found.append((PurePosixPath(source), "ro" in options))
    return [(PurePosixPath(os.path.normpath(source)), fixed) for source, fixed in found]


def complaints(compose: dict[str, Any]) -> list[str]:
    """Return what in ``compose`` would let the service ``attack`` reach the truth."""
    attack, run = compose["services"]["attack"], compose["services"]["run"]
    wrong = [key for key in ("volumes_from", "extends", "privileged", "configs") if key in attack]
    held = mounts(attack)
    runs = [source for source, _ in mounts(run)]
    captures = [source for source, _ in held if source.name == "captures"]
    for source, fixed in held:
        if "vault" in source.parts:
            wrong.append(f"{source} is or lies in a vault")
        elif source.name == "captures":
            wrong += [] if fixed else [f"{source} can be written"]
        elif any(source == one or source in one.parents or one in source.parents for one in runs):
            wrong.append(f"{source} holds, is or lies in what `run` writes")
        elif any(source in one.parents for one in captures):
            wrong.append(f"{source} holds a run")
    if len(captures) != 1 or len(held) != 2:
        wrong.append(f"wanted one captures folder and one for results, got {held}")
    return wrong


def compose(*volumes: Any, **more: Any) -> dict[str, Any]:
    run = {"volumes": ["./runs:/runs"]}
    return {"services": {"run": run, "attack": {"volumes": list(volumes), **more}}}


GOOD = ("./runs/demo/captures:/captures:ro", "./results:/results")


@pytest.mark.parametrize(
    "cheat",
    [
        compose("./runs:/captures:ro", GOOD[1]),
        compose("./runs/demo:/captures:ro", GOOD[1]),
        compose("./runs/demo/vault:/captures:ro", GOOD[1]),
        compose(".:/captures:ro", GOOD[1]),
        compose("./runs/demo/captures/..:/captures:ro", GOOD[1]),
        compose("./runs/demo/captures:/captures", GOOD[1]),
        compose(GOOD[0], "./runs/demo/results:/results"),
        compose(GOOD[0], "./:/results"),
        compose(*GOOD, "./runs/demo/vault:/vault:ro"),
        compose(*GOOD, {"type": "bind", "source": "./runs", "target": "/all", "read_only": True}),
        compose(*GOOD, volumes_from=["run"]),
        compose(GOOD[1]),
    ],
)
def test_mount_the_check_finds_every_way_to_the_vault(cheat: dict[str, Any]) -> None:
    assert complaints(cheat)
    assert not complaints(compose(*GOOD))


def test_mount_the_attack_service_sees_captures_alone() -> None:
    written = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert complaints(written) == []
    assert mounts(written["services"]["run"])  # there is something to keep from it
    assert written["services"]["attack"].get("network_mode") == "none"


def test_mount_the_image_holds_no_run() -> None:
    copied = [
        line.split()[1:-1]
        for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith(("COPY", "ADD"))
    ]
    allowed = {*PACKAGES, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert {one for line in copied for one in line} <= allowed


SEARCH = """
import os, pathlib
held = pathlib.Path.cwd()
seen = {path for root, folders, files in os.walk(held, followlinks=True)
        for path in [pathlib.Path(root, name) for name in (*folders, *files)]}
seen |= {path.resolve() for path in seen}
print(sum("vault" in path.relative_to(held).parts if path.is_relative_to(held) else True
          for path in seen))
print(sum(b'"tokens"' in path.read_bytes() for path in seen if path.is_file()))
"""


def search(folder: Path) -> tuple[int, int]:
    """Return how many vaults, and files with true tokens, a cheat finds from ``folder`` down."""
    done = subprocess.run(
        [sys.executable, "-c", SEARCH], cwd=folder, capture_output=True, text=True, check=True
    )
    vaults, files = done.stdout.split()
    return int(vaults), int(files)


def test_mount_a_copied_captures_folder_leads_to_no_vault(tmp_path: Path) -> None:
    from fedsim.lab.run.replay import prepare_replay

    run, alone = tmp_path / "run", tmp_path / "elsewhere" / "captures"
    spec = {"name": "builtin:gpt2-tiny"}
    weights = load_adapter(ModelSpec(name=spec["name"])).initial_parameters()
    broadcast = Broadcast(round=1, parameters=weights, config={"lr": 0.5})
    update = Update(tensors=weights, kind="gradient", num_examples=2)
    first = place(run / "captures", 1, 0)
    write_capture(first, 0, broadcast, update, spec)
    write_capture(
        place(run / "captures", 1, 1),
        1,
        broadcast,
        update,
        spec,
        same_broadcast=first / "broadcast.safetensors",
    )
    VaultWriter(run / "vault", own_key().seal).note(1, 0, [(5, 6, 7)], [1])
    shutil.copytree(run / "captures", alone)
    vaults, files = search(run)
    assert vaults and not files  # beside the vault the same cheat finds it, and cannot read it
    assert search(alone) == (0, 0)
    assert prepare_replay(run / "captures", "dager", [], None).truths is not None
    found = prepare_replay(alone, "dager", [], None)
    assert found.truths is None and not found.pool and len(found.captures) == 2
