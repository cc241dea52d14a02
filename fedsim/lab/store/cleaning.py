"""What may go from finished runs: captures and checkpoints, which take nearly all of the room.

What they showed stays: summary, samples, guesses, config, manifest and the vault. A run that is not
finished needs all it has.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clients.memory import ClientMemory
from fedsim.errors import BadInput, RunFailed
from fedsim.lab.store import layout
from fedsim.lab.store.lock import held
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.sweep import cell_root, read_sweep

KEY = "clean"
AFTERWARDS = {
    "captures": "nothing is left for `fedsim attack` and `fedsim inspect`",
    "checkpoints": "`fedsim run --resume` trains again, from round 1",
}
"""What may go, and what is no longer possible then."""
STAYS = "report, gate and compare, and what attacks have read"


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What may go from a directory.

    Attributes:
        root: the run or the sweep.
        finished: how many runs it is from.
        unfinished: runs that keep all they have.
        folders: by what is in them.
        bytes: what it frees, by the same: of a file that has other names elsewhere nothing.
    """

    root: Path
    finished: int
    unfinished: Sequence[str]
    folders: dict[str, list[Path]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def cleaning(root: Path, keep: Sequence[str] = ()) -> Iterator[Cleaning]:
    """Yield what may go from a run or a sweep, in which nobody else works meanwhile.

    Args:
        root: its directory.
        keep: of :data:`AFTERWARDS`, what is to stay.

    Raises:
        BadInput: it is neither, or another process works there.
    """
    if layout.is_sweep(root):
        names = [cell.name for cell in read_sweep(root).cells]
        runs = {name: cell_root(root, name) for name in names}
    elif layout.is_run(root):
        runs = {"": root}
    else:
        raise BadInput(f"{KEY}: {str(root)!r} holds neither a run nor a sweep of fedsim's")
    with contextlib.ExitStack() as locks:
        for folder in _worked_in(root, list(runs.values())):
            locks.enter_context(held(folder, KEY))
        yield _found(root, runs, [what for what in AFTERWARDS if what not in keep])


def _worked_in(root: Path, runs: Sequence[Path]) -> list[Path]:
    """Return where somebody may be at work who needs what is there.

    The directory itself; the sweep whose cell it is, which may attack its captures; a sweep's
    cells; and the attacks on captures that lie in a run.
    """
    sweep = root.resolve().parent.parent
    above = [sweep] if layout.is_sweep(sweep) else []
    cells = [run for run in runs if run != root and layout.is_run(run)]
    attacks = [path for run in runs for path in sorted(run.glob("attack-*")) if path.is_dir()]
    return [*above, root, *cells, *attacks]


def _found(root: Path, runs: Mapping[str, Path], kinds: Sequence[str]) -> Cleaning:
    finished = {
        name: run
        for name, run in runs.items()
        if layout.is_finished(run) or (run / layout.CANARIES).exists()
    }
    folders = {what: [f for run in finished.values() for f in _of(run, what)] for what in kinds}
    return Cleaning(
        root=root,
        finished=len(finished),
        unfinished=[name or str(root) for name in runs if name not in finished],
        folders=folders,
        bytes={what: _freed(some) for what, some in folders.items()},
    )


def _of(root: Path, what: str) -> list[Path]:
    run = RunDirectory(root)
    memory = ClientMemory.beside(run.vault).root  # of use only to a run that goes on
    known = {"captures": [run.captures], "checkpoints": [run.checkpoints, memory]}
    return [folder for folder in known[what] if folder.is_dir() and not folder.is_symlink()]


def _freed(folders: Sequence[Path]) -> int:
    """Return the bytes of the files in ``folders`` that have no name elsewhere."""
    sizes: dict[tuple[int, int], int] = {}
    names: dict[tuple[int, int], int] = {}  # how many are left
    for path in (path for folder in folders for path in folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            facts = path.stat()
            key = facts.st_dev, facts.st_ino
            sizes[key] = facts.st_blocks * 512
            names[key] = names.get(key, facts.st_nlink) - 1
    return sum(size for key, size in sizes.items() if not names[key])


def clean(found: Cleaning) -> None:
    """Remove what was found.

    Raises:
        RunFailed: it cannot be removed.
    """
    for folder in (folder for some in found.folders.values() for folder in some):
        aside = folder.with_name(f".fedsim-{folder.name}.{os.getpid()}.tmp")  # all of it, or none
        try:
            folder.rename(aside)
            shutil.rmtree(aside)
        except OSError as error:
            raise RunFailed(f"could not remove {folder}: {error}") from error
