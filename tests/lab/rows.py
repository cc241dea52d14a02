"""A row of reconstructions.jsonl."""

from collections.abc import Sequence
from typing import Any

from fedsim.types import Tokens


def row(
    client: int, sequences: Sequence[Tokens], *, role: str = "attack", round_: int = 1, **more: Any
) -> dict[str, Any]:
    return {
        "attack": "dager",
        "role": role,
        "round": round_,
        "client": client,
        "settings": {"max_pairs": 5},
        "knowledge": {},
        "seconds": 0.5,
        "sequences": [list(one) for one in sequences],
        "texts": [],
        "diagnostics": {"rank": 3},
        "error": None,
        **more,
    }
