"""A project's files as a checkout of Flower has them, and the small patches that they get."""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
KINDS = (".py", ".toml", ".md")


@dataclass(frozen=True, kw_only=True)
class Patch:
    """What is changed in one file of a project, and why.

    Attributes:
        file: of the project.
        why: in words, for the record.
        top: lines in front of it.
        swaps: what is said in place of what; each must be there.
        end: lines behind it: what is defined again there is used in place of what was.
    """

    file: str
    why: str
    top: str = ""
    swaps: tuple[tuple[str, str], ...] = ()
    end: str = ""

    def apply(self, folder: Path) -> None:
        """Change the file in ``folder``.

        Raises:
            SystemExit: the project is another than the patch was written for.
        """
        path = folder / self.file
        if not path.is_file():
            raise SystemExit(f"--flower: {folder.name} has no {self.file}; it is another version")
        text = path.read_text(encoding="utf-8")
        for old, new in self.swaps:
            if old not in text:
                raise SystemExit(
                    f"--flower: {folder.name}/{self.file} does not say {old!r}; it is another "
                    "version than the patches are for"
                )
            text = text.replace(old, new)
        parts = (self.top, text.rstrip("\n"), self.end)
        path.write_text("\n".join(part for part in parts if part) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Checkout:
    """A git repository of Flower, with a work tree or without; what its HEAD holds is taken."""

    path: Path

    def _git(self, *words: str) -> bytes:
        done = subprocess.run(["git", "-C", str(self.path), *words], capture_output=True)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise SystemExit(
                f"--flower: wanted a git checkout of Flower (git clone of adap/flower), got "
                f"{str(self.path)!r}: {said[-1] if said else 'git failed'}"
            )
        return done.stdout

    def commit(self) -> str:
        """Return the commit that HEAD is at."""
        if not self.path.is_dir():
            raise SystemExit(f"--flower: there is no directory {str(self.path)!r}")
        return self._git("rev-parse", "HEAD").decode().strip()

    def copy(self, example: str, folder: Path) -> None:
        """Write the sources of ``examples/<example>`` into ``folder``.

        Raises:
            SystemExit: there is no such example.
        """
        root = f"examples/{example}/"
        listed = self._git("ls-tree", "-r", "-z", "--name-only", "HEAD", root).decode()
        names = [name for name in listed.split("\0") if name.endswith(KINDS)]
        if not names:
            raise SystemExit(f"--flower: {str(self.path)!r} has no {root} at HEAD")
        for name in names:
            path = folder / name.removeprefix(root)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._git("show", f"HEAD:{name}"))


def bring(folder: Path, absent: Iterable[str]) -> None:
    """Put into a project's folder what the patches use, and what stands for missing packages."""
    for path in INSIDE.glob("*.py"):
        shutil.copy(path, folder)
    for name in absent:
        shutil.copy(INSIDE / "absent" / f"{name}.py", folder)
