"""A worker with an outsider's package installed, and tasks for it."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.worker.task import Task
from fedsim.lab.isolation.worker import AttackWorker, Limits
from fedsim.messages import Broadcast, Knowledge, Update
from fedsim.models import ModelSpec

Tasks = Callable[..., Task]
AMPLE = Limits(seconds=300.0)
MODEL = ModelSpec(name="builtin:gpt2-tiny", weights="random")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put the rogue package where Python finds it, as an installer would."""
    root = tmp_path_factory.mktemp("site")
    shutil.copy(Path(__file__).with_name("rogue.py"), root / "rogue_attacks.py")
    facts = root / "rogue_attacks-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: rogue_attacks\nVersion: 1.0\n")
    entries = "[fedsim.attacks]\nrogue = rogue_attacks:Rogue\nsnoop = rogue_attacks:Snoop\n"
    (facts / "entry_points.txt").write_text(entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        yield root


@pytest.fixture(scope="module")
def worker(installed: Path) -> Iterator[AttackWorker]:
    made = AttackWorker()
    yield made
    made.close()


@pytest.fixture
def task() -> Tasks:
    """Return a task for an attack of the package: ``task("rogue", how="loop")``."""
    sent = {"w": torch.arange(4.0), "b": torch.zeros(0)}

    def make(attack: str = "rogue", **parameters: Any) -> Task:
        return Task(
            attack=attack,
            label=attack,
            parameters=parameters,
            model=MODEL,
            device="cpu",
            broadcast=Broadcast(round=1, parameters=sent),
            update=Update(tensors={"w": torch.ones(4)}, kind="gradient", num_examples=1),
            knowledge=Knowledge(),
            seed=1,
            tells=True,
        )

    return make


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
