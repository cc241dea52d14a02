"""What can be read of an exchange, whatever a project sends, and why the rest cannot.

A fedsim client says what its arrays are. Any other sends weights, and its update is what they
moved by. Of several records of arrays the weights are those whose names and shapes were sent.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from fedsim import limits
from fedsim.evidence import Arrays, Kind, wanted
from fedsim.tap.arrays import NUMPY, read_arrays
from fedsim.tap.keys import (
    EXAMPLES,
    FIT_METRICS,
    LEGACY_EXAMPLES,
    MASKED,
    PROXIMAL,
    SECAGG,
    UPDATE,
    setting,
    summed_nodes,
)

WEIGHTS = re.compile("arrays|weights|model|param", re.IGNORECASE)
"""What projects call the record of their weights, where it is not the only one."""

MASKED_NOTE = (
    "masked by secure aggregation (SecAgg+): only the sum of a round's updates is in clear"
)


@dataclass(kw_only=True)
class Reading:
    """What was read of one exchange."""

    kind: Kind = "delta"
    broadcast: Arrays = field(default_factory=dict)
    update: Arrays = field(default_factory=dict)
    num_examples: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    wire: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what could not be read, and why


def is_protocol(sent: RecordDict) -> bool:
    """Return whether a training message is a step of SecAgg+ that asks for no training."""
    return SECAGG in sent.config_records and not sent.array_records


def read(sent: RecordDict, received: RecordDict) -> Reading:
    """Return what can be read of what was sent to a client and what it answered."""
    seen = Reading()
    kind, masked = setting(received, UPDATE, "kind"), setting(received, SECAGG, MASKED)
    if not received.array_records and masked is None:
        seen.notes.append("the reply holds no arrays")
    ours, theirs = weights(sent.array_records, received.array_records, seen.notes)
    seen.broadcast, types = _values(ours, "what was sent", seen.notes)
    if isinstance(masked, list):
        seen.kind, seen.update = "masked", _masked(masked, seen.notes)
    elif kind in ("gradient", "delta"):
        seen.kind = cast(Kind, kind)
        seen.update, _ = _values(theirs, "the reply", seen.notes)
    else:
        values, local = _values(theirs, "the reply", seen.notes)
        if sent.array_records or not values:
            seen.update = moved(values, seen.broadcast, seen.notes)
        else:
            seen.notes.append("no arrays were sent, so that what the client's moved by is unknown")
        seen.wire = {"sent": sorted(types), "received": sorted(local)}
    _numbers(received, seen)
    seen.config = settings(sent, seen.notes)
    return seen


def weights(
    sent: Mapping[str, ArrayRecord], received: Mapping[str, ArrayRecord], notes: list[str]
) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
    """Return the weights sent, and those answered: the records that fit one another best."""
    pairs = list(itertools.product(sent or {"": ArrayRecord()}, received or {"": ArrayRecord()}))

    def fits(pair: tuple[str, str]) -> tuple[int, int, bool, int]:
        ours = dict(sent.get(pair[0], {}))
        theirs = dict(received.get(pair[1], {}))
        same = sum(name in ours and ours[name].shape == one.shape for name, one in theirs.items())
        named = sum(bool(WEIGHTS.search(key)) for key in pair)
        return same, named, pair[0] == pair[1], -pairs.index(pair)

    first, second = max(pairs, key=fits)
    for what, records, kept in (("sent", sent, first), ("answered", received, second)):
        if len(records) > 1:
            others = sorted(set(records) - {kept})
            notes.append(f"of the records {what} {kept!r} is kept as weights, not {_few(others)}")
    return sent.get(first, {}), received.get(second, {})


def moved(local: Arrays, sent: Arrays, notes: list[str]) -> dict[str, np.ndarray]:
    """Return ``local - sent`` for each floating-point array; counters and such do not train.

    In float64, rounded to float32.
    """
    strange = [name for name in local if name not in sent]
    if strange:
        notes.append(f"the reply holds arrays that were never sent: {_few(strange)}")
    lacking = [name for name in sent if name not in local]
    if lacking and local:
        notes.append(f"the reply lacks arrays that were sent: {_few(lacking)}")
    known = {name: array for name, array in local.items() if name in sent}
    other = [name for name in known if known[name].shape != sent[name].shape]
    if other:
        notes.append(f"the reply's arrays have other shapes than those sent: {_few(other)}")
    floats = {name: array for name, array in known.items() if array.dtype.kind == "f"}
    if known and not floats:
        notes.append("the reply's arrays are whole numbers: encoded, and the project knows how")
    with np.errstate(all="ignore"):  # infinities and NaN are what was sent
        return {
            name: (array.astype(np.float64) - sent[name].astype(np.float64)).astype(np.float32)
            for name, array in floats.items()
            if name not in other
        }


def settings(sent: RecordDict, notes: list[str]) -> dict[str, Any]:
    """Return the scalars of a server message, those that any reader takes."""
    told: dict[str, Any] = {}
    for key, record in sent.config_records.items():
        if key != SECAGG:
            told |= {k: v for k, v in record.items() if isinstance(v, bool | int | float | str)}
    if PROXIMAL in told:
        told["proximal_mu"] = told[PROXIMAL]
    problems = {name: why for name, value in told.items() if (why := wanted(name, value))}
    notes += [f"a setting is left out: wanted {why}" for why in problems.values()]
    return {name: value for name, value in told.items() if name not in problems}


def examples(stated: object, clients: int = 1) -> tuple[int, str]:
    """Return how many examples so many clients state, and what is wrong with it; 0: not known."""
    if stated is None:
        return 0, f"the reply states no number of examples ({EXAMPLES})"
    whole = isinstance(stated, int | float) and 0 <= stated <= limits.EXAMPLES * clients
    if whole and stated == int(cast(float, stated)):
        return int(cast(float, stated)), ""
    return 0, f"the reply's {EXAMPLES} is no number of examples: {str(stated)[:40]}"


def _numbers(received: RecordDict, seen: Reading) -> None:
    """Read a reply's metrics, and the count of examples among them."""
    records: list[Mapping[str, Any]] = list(received.metric_records.values())
    told: dict[str, Any] = {}
    for record in [*records, received.config_records.get(FIT_METRICS) or {}]:
        told |= record
    legacy = told.pop(LEGACY_EXAMPLES, None) if EXAMPLES not in told else None
    clients = max(1, len(summed_nodes(received)))
    seen.num_examples, problem = examples(told.pop(EXAMPLES, legacy), clients)
    seen.notes += [problem] if problem else []
    seen.metrics = {
        name: value
        for name, value in told.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not wanted("", value)
    }


def _values(
    arrays: Mapping[str, Array], what: str, notes: list[str]
) -> tuple[dict[str, np.ndarray], set[str]]:
    values, types, problems = read_arrays(arrays)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        notes.append(f"an array of {what} cannot be read: {problems[0]}{more}")
    return values, types


def _masked(masked: Sequence[Any], notes: list[str]) -> dict[str, np.ndarray]:
    """Return a client's arrays beneath their masks, which are whole numbers."""
    notes.append(MASKED_NOTE)
    arrays = {
        str(place): Array("", (), NUMPY, data)
        for place, data in enumerate(masked)
        if isinstance(data, bytes)
    }
    return _values(arrays, "the masked reply", notes)[0]


def _few(names: Sequence[str]) -> str:
    """Return the first of ``names``, and how many there are."""
    shown = ", ".join(repr(name[:60]) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown}, ... ({len(names)})"
