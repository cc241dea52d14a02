"""What the names and shapes of a project's arrays tell of the model that it trains."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fedsim.models.naming import Shape

DOWN, UP, MAGNITUDE = ".lora_A.", ".lora_B.", ".lora_magnitude_vector"
LIST = re.compile(r"(?:^|\.)(\d+)\.")
COMMON = 2  # the least rows or columns of a matrix that is no vector in disguise


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Arrays by name, in the order in which they were sent: floating-point ones alone."""

    sent: Mapping[str, Shape]

    @classmethod
    def of(cls, sent: Mapping[str, Shape]) -> "Shapes":
        """Return ``sent`` with a list's arrays in their order."""
        if sent and all(name.isdecimal() for name in sent):
            return cls(sent={name: sent[name] for name in sorted(sent, key=int)})
        return cls(sent=dict(sent))

    @property
    def listed(self) -> bool:
        """Whether they have no names but their places in a list."""
        return bool(self.sent) and all(name.isdecimal() for name in self.sent)

    @cached_property
    def matrices(self) -> list[Shape]:
        """The shapes of those that are matrices."""
        return [s for s in self.sent.values() if len(s) == 2 and min(s) >= COMMON]

    @cached_property
    def rank(self) -> int:
        """LoRA's, where there are adapters; 0: there are none.

        Those of a list are told by their shapes: A (R, D) and B (K, R) in turn.
        """
        matrices = {name: shape for name, shape in self.sent.items() if len(shape) == 2}
        ranks = [shape[0] for name, shape in matrices.items() if DOWN in name]
        ranks += [shape[1] for name, shape in matrices.items() if UP in name]
        if ranks:
            return Counter(ranks).most_common(1)[0][0]
        shapes = list(self.sent.values())
        if self.listed and len(shapes) > 1 and len(shapes[0]) == len(shapes[1]) == 2:
            (rank, width), (_, again) = shapes[0], shapes[1]
            if rank == again and rank < width:
                return rank
        return 0

    @cached_property
    def dora(self) -> bool:
        """Whether adapters have a magnitude beside them; in a list it comes behind A and B."""
        shapes = list(self.sent.values())
        if self.listed and self.rank and len(shapes) > 2:  # (R, D), (K, R), (K,)
            return shapes[2] == shapes[1][:1]
        return any(MAGNITUDE in name for name in self.sent)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The names of the modules that have adapters, in the order in which they come."""
        parts = ((name.partition(DOWN), name.partition(UP)) for name in self.sent)
        names = [(down if down[1] else up)[0] for down, up in parts if down[1] or up[1]]
        return tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))

    def is_up(self, name: str) -> bool:
        """Whether an array is LoRA's B; those of a list come behind their A."""
        return int(name) % (3 if self.dora else 2) == 1 if self.listed else UP in name

    def parent(self, name: str) -> str:
        """Return the name of the module around the one that an array is of; "": in a list."""
        module = re.split(r"\.lora_[AB]\.|\.(?:weight|bias)$", name)[0]
        return module.rpartition(".")[0]

    def usual(self, model_type: str) -> list[tuple[str, ...]]:
        """Return what peft adapts where nobody names targets, and all linear maps."""
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as usual

        return [*([tuple(usual[model_type])] if model_type in usual else []), ("all-linear",)]

    def labels(self, head: str) -> int:
        """Return how many labels the head called ``head`` has; 0: no array is called so."""
        for name, shape in self.sent.items():
            if head and len(shape) == 2 and name.endswith(f"{head}.weight"):
                return shape[0]
        return 0

    @cached_property
    def blocks(self) -> int:
        """How many blocks the names count; 0: they count nothing."""
        return 1 + max((int(m[1]) for name in self.sent if (m := LIST.search(name))), default=-1)

    @cached_property
    def width(self) -> int:
        """D: the size that most matrices have on one side; of adapters, A's longer one."""
        read = Counter(s[1] for name, s in self.sent.items() if DOWN in name and len(s) == 2)
        if read:
            return read.most_common(1)[0][0]
        sides = Counter(side for shape in self.matrices for side in set(shape) - {self.rank})
        return sides.most_common(1)[0][0] if sides else 0

    def words(self) -> str:
        """Return what they look like, in words."""
        parts = []
        if self.rank:
            on = f" on {', '.join(self.targets)}" if self.targets else ""
            parts.append(f"{'DoRA' if self.dora else 'LoRA'} of rank {self.rank}{on}")
        if self.width:
            parts.append(f"width {self.width}")
        if self.blocks:
            parts.append(f"{self.blocks} blocks")
        tall = max((s for s in self.matrices if s[0] > 4 * s[1]), default=(), key=len)
        if not self.rank and tall and self.width in tall:
            parts.append(f"{tall[0]} tokens")
        return ", ".join(parts) or "no transformer"
