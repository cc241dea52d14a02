"""How much memory there is to take, and how much of it is taken."""

from collections.abc import Collection
from pathlib import Path

from fedsim.linux import children, sizes

SHARE = 0.9  # of what is free, so that something is left for everybody else
CONTAINER = Path("/sys/fs/cgroup/memory.max")  # cgroup 2; "max": it has no limit
MACHINE = Path("/proc/meminfo")
MOST = 1000  # processes to look at


def held_by(process: int, source: int, others: Collection[int]) -> int:
    """Return how many bytes a worker, and all that it started, hold in memory; 0: it is gone.

    What forked processes share counts for each of them.

    Args:
        process: the worker.
        source: its parent, to which falls what others leave behind.
        others: children of the source that are no affair of this worker.
    """
    if not (total := sizes(process)[0]):
        return 0
    todo = [*children(process), *left_behind(source, {process, *others})]
    for one in todo:  # which grows
        total += sizes(one)[0]
        if len(todo) < MOST:
            todo += children(one)
    return total


def left_behind(source: int, workers: Collection[int]) -> list[int]:
    """Return the children of ``source`` that are no workers, but were some worker's."""
    return [child for child in children(source) if child not in workers]


def spare_memory() -> int:
    """Return how many bytes a worker may hold where nobody set a limit; 0: nothing tells."""
    free = [_container(), _machine()]
    return int(SHARE * min((some for some in free if some), default=0))


def _container() -> int:
    try:
        return int(CONTAINER.read_text())
    except (OSError, ValueError):
        return 0


def _machine() -> int:
    try:
        lines = MACHINE.read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else 0
