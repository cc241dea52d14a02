"""Which of a project's arrays dager would look at, by their names, and which of them it lacks."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fedsim.models.shapes import Shapes

READERS = re.compile(
    r"(?:^|[._])(q_proj|k_proj|v_proj|query|key|value|c_attn|qkv_proj|query_key_value|q_lin|k_lin"
    r"|v_lin|query_proj|key_proj|value_proj|Wqkv|qkv)\b"
)
"""What transformers calls the maps that make an attention's queries, keys and values."""
MIDDLES = re.compile(
    r"\.(c_fc|gate_proj|up_proj|gate_up_proj|intermediate\.dense|lin1|fc1|fc_in|dense_h_to_4h)\b"
)
"""And the first maps of an MLP, which read what attention made."""
CONTEXTS = re.compile(r"\.(attention\.output\.dense|out_lin)\b")
"""And an encoder's maps of what its heads read."""
FAMILIES = {
    "c_attn": "gpt2",
    "q_lin": "distilbert",
    "query": "bert, roberta, xlm-roberta, electra, albert",
    "query_proj": "deberta-v2",
    "query_key_value": "gpt_neox, bloom, falcon",
    "qkv_proj": "phi3",
    "Wqkv": "modernbert",
    "q_proj": "llama, mistral, qwen2, qwen3, gemma, smollm3, olmo2, phi, opt, gpt_neo",
}
"""Whose name that is: model types of transformers."""
ENCODERS = ("q_lin", "query", "key", "value", "k_lin", "v_lin")
"""Those of encoders whose sentences are told by block 0's attention."""
NUMBER = re.compile(r"(?:^|\.)(\d+)\.")


def family_of(names: Iterable[str]) -> str:
    """Return the model types that arrays are named as; "": none known."""
    found = Counter(m[1] for name in names if (m := READERS.search(name)))
    known = [name for name, _ in found.most_common() if name in FAMILIES]
    return FAMILIES[known[0]] if known else ""


@dataclass(frozen=True, kw_only=True)
class DagerParts:
    """The arrays that dager would look at.

    Attributes:
        readers: of block 0's queries, keys and values, as far as they moved.
        lacks: why dager has too little to go by, in words; "": nothing says so.
    """

    readers: tuple[str, ...]
    lacks: str = ""


def find_parts(shapes: Shapes, moved: Collection[str]) -> DagerParts:
    """Return which of ``shapes``' arrays are what, by their names; a list's have none.

    Args:
        shapes: what was sent.
        moved: the names of what training moved: of two models that are sent, its own.
    """
    wanted = [name for name in shapes.sent if not shapes.rank or shapes.is_up(name)]
    places = {name: place for name in wanted if (place := _place(name)) is not None}
    if not places:
        return DagerParts(readers=(), lacks=_without_readers(shapes, wanted, moved))
    stems = Counter(stem for name, (stem, _) in places.items() if name in moved)
    if not stems:
        return DagerParts(readers=())
    stem = stems.most_common(1)[0][0]  # of the model that trains
    first = min(number for where, number in places.values() if where == stem)
    readers = [name for name in moved if places.get(name) == (stem, first)]
    head = f"{stem}{first}." if first >= 0 else stem
    block = [name for name in wanted if name.startswith(head) and name in moved]
    later = [name for name in moved if places.get(name) == (stem, first + 1)]
    lacks = _lacks(readers, block, later, "adapters on" if shapes.rank else "the update of")
    return DagerParts(readers=tuple(sorted(readers)), lacks=lacks if first >= 0 else "")


def _place(name: str) -> tuple[str, int] | None:
    """Return what stands before a reader's block's number, and that; -1: it has none."""
    found = READERS.search(name)
    if found is None:
        return None
    before = name[: found.start() + 1]
    numbers = list(NUMBER.finditer(before))
    if not numbers:
        return before.rpartition(".")[0], -1
    return before[: numbers[-1].start(1)], int(numbers[-1][1])


def _lacks(
    readers: Collection[str], block: Collection[str], later: Collection[str], what: str
) -> str:
    if not readers:
        return (
            f"dager needs {what} block 0's queries, keys or values, none of which moved: it reads "
            "nothing"
        )
    middle = any(map(MIDDLES.search, block))
    called = {m[1] for name in readers if (m := READERS.search(name))}
    if called & set(ENCODERS):
        if middle or any(map(CONTEXTS.search, block)):
            return ""
        return (
            f"dager needs {what} block 0's attention output or MLP to read an encoder's sentences, "
            "neither of which moved: it reads nothing"
        )
    if middle or later:
        return ""
    return (
        f"dager needs {what} block 0's MLP, or block 1's queries, keys or values, neither of "
        "which moved: it reads nothing"
    )


def _without_readers(shapes: Shapes, wanted: Iterable[str], moved: Collection[str]) -> str:
    """Return the same where no array is called as queries, keys or values are."""
    others = [n for n in wanted if n in moved and (MIDDLES.search(n) or CONTEXTS.search(n))]
    return _lacks((), (), (), "adapters on") if shapes.rank and others else ""
