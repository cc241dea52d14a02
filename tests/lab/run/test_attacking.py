"""What the lab makes of an attack's answers, whatever they are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from typing_extensions import override

from attacks import Attack
from attacks.worker.attempt import attempted
from attacks.worker.task import Answer, Task
from fedsim import limits
from fedsim.errors import UnsupportedObservation
from fedsim.lab.display import Silent
from fedsim.lab.isolation.worker import Limits
from fedsim.lab.run.attacking import Runner
from fedsim.lab.run.controls import own_sequences, own_update
from fedsim.lab.run.planned import plan
from fedsim.lab.scoring.judge import Judge
from fedsim.lab.scoring.scored import Scored
from fedsim.lab.store.attempts import AttackRecord
from fedsim.lab.store.run import RunDirectory
from fedsim.messages import Broadcast, Observation, Reconstruction
from fedsim.training import TrainingSettings
from fedsim.vault.reader import Truth
from tests.lab.conftest import experiment, preset


@dataclass(frozen=True, kw_only=True)
class Wordy(Attack):
    """Has parameters that are words, and one that is a path; says nothing of why it cannot run."""

    optimizer: str = "adam"
    prior: str = ""
    paths: ClassVar = ("prior",)

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        raise UnsupportedObservation()


@dataclass
class Says:
    """Answers as ``answer`` does, and keeps the tasks."""

    answer: Callable[[Task], Answer]
    tasks: list[Task] = field(default_factory=list)

    def attempt(self, task: Task, limits: Limits) -> Answer:
        self.tasks.append(task)
        return self.answer(task)


KNOWN = {"wordy": Wordy}


@pytest.fixture(autouse=True)
def wordy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.lab.run.planned.attack_table", lambda: KNOWN)


def noted(
    root: Path, answer: Callable[[Task], Answer], **parameters: Any
) -> tuple[AttackRecord, Task]:
    """Attack one update; return what comes out of the file, and the task."""
    adapter, run, worker = preset(), RunDirectory(root), Says(answer)
    sections = experiment(attack=[{"name": "wordy", **parameters}]).attack
    runner = Runner(
        planned=plan(sections), adapter=adapter, seed=1, vault=None, controls=False,
        note=run.note_attempt, errors=run.errors, display=Silent(), worker=worker,
    )  # fmt: skip
    sent = Broadcast(
        round=1, parameters=adapter.initial_parameters(), config=TrainingSettings().as_config()
    )
    update = own_update(adapter, sent, Truth(own_sequences(adapter, [5]), (0,)), seed=1)
    runner.attack_round([((0,), sent, update)])
    (record,) = run.attempts()
    return record, worker.tasks[0]


def test_an_attack_without_a_word_is_no_safe_one(tmp_path: Path) -> None:
    record, _ = noted(tmp_path, lambda task: attempted(task, KNOWN))
    assert record.error == "UnsupportedObservation"
    scored = Scored(attempt=record)
    judge = Judge(controls=True, but_last=False, seed=1)
    assert judge.verdict([scored])[0] == "inconclusive"
    with pytest.raises(ValueError, match="at least 1 character"):
        Answer(error="")
    with pytest.raises(ValueError, match="at least 1 character"):
        AttackRecord.model_validate({**record.as_dict(), "error": ""})


@pytest.mark.parametrize(
    "said",
    [
        {"diagnostics": {"x": 10**30}},
        {"seconds": float("inf")},
        {"sequences": [[1]], "diagnostics": {"x": {"y": [[10**30]]}}},
    ],
)
def test_what_cannot_be_read_again_is_not_written(tmp_path: Path, said: dict[str, Any]) -> None:
    record, _ = noted(tmp_path, lambda _: Answer.model_construct(**{"seconds": 0.5, **said}))
    assert record.error and record.error.startswith("wordy gave an answer that no file can hold: ")
    assert not record.sequences and not record.diagnostics


def test_guesses_beyond_what_is_looked_at_are_dropped(tmp_path: Path) -> None:
    many = [[1, 2]] * (limits.GUESSES + 7)
    record, _ = noted(tmp_path, lambda _: Answer(sequences=many))
    assert (len(record.sequences), record.dropped) == (limits.GUESSES, 7)


def test_a_parameter_is_a_path_where_its_attack_says_so(tmp_path: Path) -> None:
    for name in ("adam", "folder"):
        (Path.cwd() / name).mkdir()
    words = {"optimizer": "adam", "prior": "folder"}
    _, task = noted(tmp_path / "run", lambda task: attempted(task, KNOWN), **words)
    assert task.parameters == {"optimizer": "adam", "prior": str(Path.cwd() / "folder")}
