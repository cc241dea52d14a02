"""What an attack said of one update, for tests that score it or show it."""

from collections.abc import Sequence
from typing import Any

from fedsim.lab.store.attempts import AttackRecord
from fedsim.types import Tokens


def attempt(client: int, sequences: Sequence[Tokens], **more: Any) -> AttackRecord:
    fields = {
        "attack": "dager",
        "role": "attack",
        "round": 1,
        "client": client,
        "settings": {"max_pairs": 5},
        "knowledge": {},
        "seconds": 0.5,
        "sequences": sequences,
        "texts": [],
        "diagnostics": {"rank": 3},
        "error": None,
        **more,
    }
    return AttackRecord.model_validate(fields)
