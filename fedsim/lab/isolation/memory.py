"""How much memory there is to take."""

from pathlib import Path

SHARE = 0.9  # of what is free, so that something is left for everybody else
CONTAINER = Path("/sys/fs/cgroup/memory.max")  # cgroup 2; "max": it has no limit
MACHINE = Path("/proc/meminfo")


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
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else 0
