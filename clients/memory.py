"""What a client's defenses keep from round to round: on its own disk, where no attack reads."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from defenses.base import Memory
from fedsim.errors import MalformedFile
from fedsim.files import check_regular, parse_json, write_tensors

KEPT_NAME = re.compile(r"round=[0-9]{1,9}\.safetensors")
KEPT = 3  # rounds: the one that may be run again after a kill, and those before it


@dataclass(frozen=True)
class ClientMemory:
    """One atomic file for each (client, round) a client took part in, the last few kept.

    The client, not its process, has the memory: Ray's workers share clients, and a run that was
    killed reads again what the client knew before the round that is run again.
    """

    root: Path

    @classmethod
    def beside(cls, vault: Path) -> "ClientMemory":
        """Return the memory that lies beside a vault."""
        return cls(vault.with_name("memory"))

    def before(self, client: int, round_: int, defenses: int) -> list[Memory]:
        """Return what each defense of ``client`` kept in its last round before ``round_``."""
        earlier = [path for path in self._paths(client) if _round(path) < round_]
        return _read(earlier[-1], defenses) if earlier else [Memory()] * defenses

    def note(self, client: int, round_: int, memories: Sequence[Memory]) -> None:
        """Keep what each defense of ``client`` wants to find in its next round."""
        if not any(memory.tensors or memory.values for memory in memories):
            return
        tensors = {
            f"{place}/{name}": tensor
            for place, memory in enumerate(memories)
            for name, tensor in memory.tensors.items()
        }
        values = json.dumps([dict(memory.values) for memory in memories])
        path = self.root / f"client={client}" / f"round={round_}.safetensors"
        write_tensors(path, tensors, {"values": values})
        for old in self._paths(client):
            if _round(old) > round_:  # of a run that was killed; that round is run again
                old.unlink()
        for old in self._paths(client)[:-KEPT]:
            old.unlink()

    def _paths(self, client: int) -> list[Path]:
        paths = (self.root / f"client={client}").glob("*")
        return sorted((path for path in paths if KEPT_NAME.fullmatch(path.name)), key=_round)


def _round(path: Path) -> int:
    return int(path.stem.removeprefix("round="))


def _read(path: Path, defenses: int) -> list[Memory]:
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            values = parse_json((file.metadata() or {}).get("values", "").encode(), "values")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, MalformedFile) as error:
        raise MalformedFile(f"{path} is not what a client kept: {error}") from error
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise MalformedFile(f"{path} is not what a client kept: values must be a list of tables")
    if len(values) != defenses:
        raise MalformedFile(f"{path} is of {len(values)} defenses, not of {defenses}")
    memories = []
    for place, value in enumerate(values):
        mine = {
            name.removeprefix(f"{place}/"): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{place}/")
        }
        memories.append(Memory(tensors=mine, values=value))
    return memories
