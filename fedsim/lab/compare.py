"""What differs between runs: leakage with intervals, utility, bytes, epsilon, and their configs.

Two runs that trained on the same texts are paired sample by sample: most of what makes one batch
easier to read than another is then in both, and cancels. Where no update is of the same texts, the
intervals of both are combined.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fedsim.errors import BadInput, MalformedMessage
from fedsim.lab.run.trackers import flat
from fedsim.lab.scoring.intervals import (
    PERCENT,
    difference_interval,
    metric_interval,
    paired_interval,
)
from fedsim.lab.store.attack import open_run
from fedsim.lab.store.samples import read_summary, sample_rows
from fedsim.rng import derive

Row = Mapping[str, Any]
Updates = dict[tuple[int, int], list[Row]]  # (round, client) -> its samples


class Side:
    """One of the runs that are compared, read once."""

    def __init__(self, path: Path) -> None:
        if (path / "sweep.json").exists():
            raise BadInput(f"{str(path)!r} holds a sweep; name runs in it: {path / 'cells'}/<name>")
        self.path = path
        self.run = open_run(path)
        self.summary = read_summary(self.run)  # first: it says what is wrong with the directory
        self.config = dict(flat(self.run.config().as_toml()))
        self.rows = sample_rows(self.run)

    @property
    def epsilon(self) -> float | None:
        """What the run's guarantee says, or None."""
        guarantee: Mapping[str, Any] = self.summary.get("guarantee") or {}
        return guarantee.get("epsilon")

    def updates(self, attack: str) -> Updates:
        """Return the samples that ``attack`` was scored on, by update."""
        found: Updates = {}
        for row in self.rows:
            if row["attack"] == attack:
                found.setdefault((row["round"], row["client"]), []).append(row)
        return found

    @property
    def bytes_up(self) -> float | None:
        """What an update took on average, as its defense encodes it, or None."""
        wire: Mapping[str, Any] = self.summary.get("wire") or {}
        return wire.get("bytes_up")


def compare(paths: Sequence[Path]) -> dict[str, Any]:
    """Return how each run differs from the first; a difference is the run's value minus its.

    Raises:
        BadInput: fewer than two runs, one that is not there, not finished, broken, or a sweep.
    """
    if len(paths) < 2:
        raise BadInput(f"compare needs at least two runs, got {len(paths)}")
    try:
        first, *others = [Side(path) for path in paths]
    except MalformedMessage as error:
        raise BadInput(str(error)) from error
    return {
        "schema": 1,
        "reference": str(first.path),
        "runs": [_against(first, other) for other in others],
    }


def _against(first: Side, other: Side) -> dict[str, Any]:
    keys = {**first.config, **other.config}
    ours, theirs = first.summary["verdicts"], other.summary["verdicts"]
    attacks = [name for name in ours if name in theirs]
    return {
        "run": str(other.path),
        "settings": {
            key: [first.config.get(key), other.config.get(key)]
            for key in keys
            if first.config.get(key) != other.config.get(key) and key != "name"
        },
        "verdicts": {name: [ours[name]["verdict"], theirs[name]["verdict"]] for name in attacks},
        "leakage": {name: _leakage(first, other, name) for name in attacks},
        "utility": _utility(first, other),
        "bytes_up": _figures(first.bytes_up, other.bytes_up),
        "epsilon": _figures(first.epsilon, other.epsilon),
    }


def _leakage(first: Side, other: Side, attack: str) -> dict[str, Any]:
    """Return the differences of one attack's metrics, and what they rest on."""
    before, after = first.updates(attack), other.updates(attack)
    pairs = [_pairs(before[at], after[at]) for at in before if at in after]
    pairs = [one for one in pairs if one]
    names = _metrics(before, after)
    seed = derive(first.summary["seed"], "compare")
    found: dict[str, Any] = {
        "paired": bool(pairs),
        "updates": len(pairs) if pairs else [len(before), len(after)],
        "metrics": {},
    }
    for name in names:
        most = 100.0 if name in PERCENT else 1.0
        if pairs:
            values = [fmean(pair[at][name] for one in pairs for pair in one) for at in (0, 1)]
            between = paired_interval(
                [[b[name] - a[name] for a, b in cluster] for cluster in pairs], seed=seed, most=most
            )
        else:
            sides = [
                metric_interval(
                    name, [[row[name] for row in rows] for rows in one.values()], seed=seed
                )
                for one in (before, after)
            ]
            values = [one.mean for one in sides]
            between = difference_interval(sides[1], sides[0])
        found["metrics"][name] = {
            "reference": values[0],
            "value": values[1],
            "difference": vars(between),
        }
    return found


def _pairs(before: Iterable[Row], after: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Return the samples of an update in both runs, or nothing where the texts are not the same."""
    left, right = [sorted(rows, key=lambda row: row["truth_tokens"]) for rows in (before, after)]
    same = [row["truth_tokens"] for row in left] == [row["truth_tokens"] for row in right]
    return list(zip(left, right, strict=True)) if same else []


def _metrics(before: Updates, after: Updates) -> list[str]:
    """Return the names of the metrics that both runs have."""
    rows = [next(iter(one.values()))[0] for one in (before, after) if one]
    if len(rows) < 2:
        return []
    known = ("exact_match", "token_accuracy", "bag_f1", *PERCENT)
    more = tuple(f"{name}_but_last" for name in known)
    return [name for name in (*known, *more) if all(name in row for row in rows)]


def _utility(first: Side, other: Side) -> dict[str, Any] | None:
    """Return the difference after the last round; None where they measure different things."""
    ours, theirs = first.summary.get("utility"), other.summary.get("utility")
    if not ours or not theirs or ours["metric"] != theirs["metric"]:
        return None
    return {"metric": ours["metric"], **(_figures(ours["after"], theirs["after"]) or {})}


def _figures(before: float | None, after: float | None) -> dict[str, float | None] | None:
    if before is None and after is None:
        return None
    known = before is not None and after is not None
    return {
        "reference": before,
        "value": after,
        "difference": after - before if known else None,  # type: ignore[operator]
    }
