"""Attacks in this process: for tests whose plugins no other process knows."""

from collections.abc import Mapping
from dataclasses import dataclass

from attacks import Attack
from attacks.worker.attempt import attempted
from attacks.worker.task import Answer, Task
from fedsim.lab.isolation.worker import Limits


@dataclass(frozen=True)
class InThisProcess:
    """Runs attacks of ``known`` here, under no limits."""

    known: Mapping[str, type[Attack]]

    def attempt(self, task: Task, limits: Limits) -> Answer:
        return attempted(task, self.known)
