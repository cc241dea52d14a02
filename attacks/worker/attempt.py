"""One attempt: the attack on the observation, and one line where it could not run."""

import functools
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch

from attacks import Attack, attack_table
from attacks.worker.task import LONGEST, WHOLE, Answer, Task
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.plugins import make
from fedsim.threads import best_threads, threads


def attempted(task: Task, known: Mapping[str, type[Attack]] | None = None) -> Answer:
    """Return what came of ``task``; nothing that the attack raises gets out, but an interrupt.

    Args:
        task: what to attack, and how.
        known: the table of attacks; default: all there are.
    """
    kind: type = Attack  # until it is found
    started = time.perf_counter()
    try:
        attack = make("attack", task.attack, known or attack_table(), task.parameters)
        kind = type(attack)
        observation = Observation(
            model=_workspace(task.model, task.device),
            broadcast=task.broadcast,
            update=task.update,
            knowledge=task.knowledge,
        )
        generator, started = torch.Generator().manual_seed(task.seed), time.perf_counter()
        with threads(best_threads(task.broadcast.parameters)):
            guess = attack.reconstruct(observation, generator)
        return Answer(
            seconds=time.perf_counter() - started,
            sequences=[list(tokens) for tokens in guess.sequences],
            diagnostics=dict(guess.diagnostics),
            scores=list(guess.scores),
            members=list(guess.members),
        )
    except UnsupportedObservation as reason:
        return Answer(
            seconds=time.perf_counter() - started,
            error=_cut(str(reason).strip() or type(reason).__name__, LONGEST),
        )
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # a plugin's, sys.exit among them: the worker goes on
        error = f"{task.label} raised {type(fault).__name__}: {fault}"
        return Answer(
            seconds=time.perf_counter() - started,
            error=_cut(error, LONGEST),
            place=_cut(place_of(fault, kind), LONGEST),
            traceback=_cut("".join(traceback.format_exception(fault)), WHOLE),
        )


def _cut(text: str, most: int) -> str:
    """Return ``text`` as JSON can hold it, no longer than ``most``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:most]


@functools.lru_cache(maxsize=1)
def _workspace(model: ModelSpec, device: str) -> ModelAdapter:
    """Return the attacks' one workspace, which no client shares."""
    return load_adapter(model).to(device)


def place_of(fault: BaseException, plugin: type) -> str:
    """Return file, line and function in which the code of ``plugin`` was when it failed.

    It is the innermost frame of the plugin's own package: what it called may be torch's.
    """
    package = plugin.__module__.partition(".")[0]
    frames = list(traceback.walk_tb(fault.__traceback__))
    its_own = [
        (frame, line)
        for frame, line in frames
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    frame, line = (its_own or frames)[-1]
    return f"{Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}"
