"""Where trained inverters are kept: in the process, and in a directory where one is named.

An inverter is a function of the weights sent, the protocol, the pipeline and the recipe, of nothing
else: whoever has these gets the same one, trained here, before or elsewhere.
"""

import functools
import hashlib
import io
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from attacks.learned.simulator import Simulator
from attacks.learned.texts import Source
from attacks.learned.training import Curriculum, Inverter, State, Trainer
from fedsim.errors import UnsupportedObservation
from fedsim.files import make_directory, read_bytes, write_bytes

FORMAT = 1  # of what is kept: another one is trained anew
MOST = 2**33  # bytes of a file
KEPT = 2  # inverters that a process holds

logger = logging.getLogger("fedsim.attacks")


@dataclass(frozen=True)
class Job:
    """An inverter to be had: equal ones have the same."""

    digest: str
    simulator: Simulator = field(compare=False, repr=False)
    source: Source = field(compare=False, repr=False)
    recipe: Curriculum = field(compare=False)
    folder: str  # "": in this process alone

    @classmethod
    def of(cls, simulator: Simulator, source: Source, recipe: Curriculum, folder: str) -> "Job":
        """Return the job whose digest is over all that the inverter hangs on."""
        seen = simulator.observation
        told = {
            "format": FORMAT,
            "recipe": asdict(recipe),
            "prior": (source.prior, source.digest),
            "model": {**seen.model.spec.as_dict(), "tokenizer": len(seen.model.tokenizer)},
            "training": simulator.settings.as_config(),
            "kind": seen.update.kind,
            "sent": sorted(seen.update.tensors),
            "lengths": (simulator.shape.lengths, simulator.shape.spread),
            "labels": seen.knowledge.labels,
            "effects": [repr(effect) for effect in simulator.pipeline.effects],
        }
        whole = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for name, tensor in sorted(seen.broadcast.parameters.items()):
            whole.update(name.encode())
            whole.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return cls(whole.hexdigest(), simulator, source, recipe, folder)

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return Path(self.folder) / f"{self.digest[:32]}.pt"


@functools.lru_cache(maxsize=KEPT)
def inverter_of(job: Job) -> Inverter:
    """Return the inverter, trained if it is not kept yet, or from where its training stopped."""
    trainer = Trainer(job.simulator, job.source, job.recipe, int(job.digest[:15], 16))
    if not job.folder:
        return trainer()
    begun = _read(job.path)
    if begun is not None:
        logger.info("lti: goes on from %d chunks in %s", begun.chunks, job.path)
    make_directory(job.path.parent)
    return trainer(begun, lambda state: _write(job.path, state))


def _write(path: Path, state: State) -> None:
    content = io.BytesIO()
    torch.save(vars(state), content)
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        raise UnsupportedObservation(f"lti could not write {str(path)!r}: {error}") from error


def _read(path: Path) -> State | None:
    if not path.exists():
        return None
    try:
        kept = torch.load(io.BytesIO(read_bytes(path, most=MOST)), weights_only=True)
        return State(**kept)
    except Exception as error:  # whatever a file that is none of ours makes of torch's reader
        raise UnsupportedObservation(
            f"lti: {str(path)!r} cannot be read, remove it: {type(error).__name__}"
        ) from error
