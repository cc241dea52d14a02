"""What differs between runs: leakage with intervals, utility, bytes, epsilon, and their configs.

Two runs that trained on the same texts are paired sample by sample: most of what makes one batch
easier to read than another is then in both, and cancels. Where no update is of the same texts, the
intervals of both are combined.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fedsim.errors import BadInput, MalformedMessage
from fedsim.lab.config.labels import flat
from fedsim.lab.scoring.again import samples_of_run
from fedsim.lab.scoring.intervals import difference_interval, metric_interval, paired_interval
from fedsim.lab.store import layout
from fedsim.lab.store.attack import open_run
from fedsim.lab.store.figures import PRECISION, ROUGES, VERDICT_METRIC, Interval
from fedsim.lab.store.samples import Sample
from fedsim.rng import derive

Updates = dict[tuple[int, int], list[Sample]]  # (round, client) -> its samples


class ComparedRun:
    """One of the runs that are compared, read once."""

    def __init__(self, path: Path) -> None:
        if layout.is_sweep(path):
            cells = path / layout.CELLS
            raise BadInput(f"{str(path)!r} holds a sweep; name runs in it: {cells}/<name>")
        self.path = path
        run = open_run(path)
        self.summary = run.summary()  # first: it says what is wrong with the directory
        config = run.config()
        self.config = dict(flat(config.as_toml()))
        self.defended = any(defense.name != "none" for defense in config.defense)
        self.samples = samples_of_run(run, self.summary)

    def updates(self, attack: str) -> Updates:
        """Return the samples that ``attack`` was scored on, by update."""
        updates: Updates = {}
        for sample in self.samples:
            if sample.attack == attack:
                updates.setdefault((sample.round, sample.client), []).append(sample)
        return updates

    @property
    def bytes_up(self) -> float | None:
        """What an update took on average, as its defense encodes it, or None."""
        return self.summary.wire.get("bytes_up")


def compare(paths: Sequence[Path], reference: Path | None = None) -> dict[str, Any]:
    """Return how runs differ from one of them; a difference is the run's value minus its.

    Args:
        paths: the runs.
        reference: the one that the others are held against, which need not be among them; default:
            the first, but of cells of one sweep (which a shell names by the alphabet) the first
            without a defense, if there is one.

    Raises:
        BadInput: fewer than two runs, one that is not there, not finished, broken, or a sweep.
    """
    if reference is not None:
        paths = [reference, *(path for path in paths if path.resolve() != reference.resolve())]
    if len(paths) < 2:
        raise BadInput(f"compare needs at least two runs, got {len(paths)}")
    try:
        runs = [ComparedRun(path) for path in paths]
    except MalformedMessage as error:
        raise BadInput(str(error)) from error
    plain = [run for run in runs if not run.defended]
    chosen = reference is None and _of_one_sweep(paths) and bool(plain)
    first = plain[0] if chosen else runs[0]
    return {
        "schema": 1,
        "reference": str(first.path),
        "reference_why": _why(first, asked=reference is not None, chosen=chosen),
        "runs": [_against(first, other) for other in runs if other is not first],
    }


def _of_one_sweep(paths: Sequence[Path]) -> bool:
    """Return whether all of them are cells of the same sweep."""
    (folder, *others) = {path.resolve().parent for path in paths}
    return not others and folder.name == layout.CELLS and layout.is_sweep(folder.parent)


def _why(first: ComparedRun, *, asked: bool, chosen: bool) -> str:
    """Return in words why the others are held against ``first``."""
    if asked:
        return "as asked for"
    if chosen:
        return "the first without a defense"
    return f"the first that was named{', which has a defense' if first.defended else ''}"


def _against(first: ComparedRun, other: ComparedRun) -> dict[str, Any]:
    keys = {**first.config, **other.config}
    ours, theirs = first.summary.verdicts, other.summary.verdicts
    attacks = [name for name in ours if name in theirs]
    return {
        "run": str(other.path),
        "settings": {
            key: [first.config.get(key), other.config.get(key)]
            for key in keys
            if first.config.get(key) != other.config.get(key) and key != "name"
        },
        "verdicts": {name: [ours[name].verdict, theirs[name].verdict] for name in attacks},
        "leakage": {name: leakage_between(first, other, name) for name in attacks},
        "utility": _utility(first, other),
        "bytes_up": _figures(first.bytes_up, other.bytes_up),
        "epsilon": _figures(first.summary.epsilon, other.summary.epsilon),
    }


def leakage_between(first: ComparedRun, other: ComparedRun, attack: str) -> dict[str, Any]:
    """Return the differences of one attack's metrics, and what they rest on."""
    before, after = first.updates(attack), other.updates(attack)
    pairs = [_pairs(before[at], after[at]) for at in before if at in after]
    pairs = [cluster for cluster in pairs if cluster]
    seed = derive(first.summary.seed, "compare")
    metrics: dict[str, dict[str, Any]] = {}
    flat = [pair for cluster in pairs for pair in cluster]
    for name in _metrics(before, after):
        if pairs and not any(_has(name, *pair) for pair in flat):
            continue  # others have it, which are not compared
        reference, value, between = (
            _paired(name, pairs, seed) if pairs else _unpaired(name, before, after, seed)
        )
        metrics[name] = {"reference": reference, "value": value, "difference": vars(between)}
    sides = [run.summary.leakage.get(attack, {}) for run in (first, other)]
    whole = not pairs or len(pairs) == len(before) == len(after)
    for name in PRECISION:  # of guesses, which are no pairs: of all updates, or there is none
        if whole and all(name in side for side in sides):
            ours, theirs = (side[name] for side in sides)
            between = difference_interval(theirs, ours)
            metrics[name] = {
                "reference": ours.mean, "value": theirs.mean, "difference": vars(between),
            }  # fmt: skip
    return {
        "paired": bool(pairs),
        "updates": len(pairs) if pairs else [len(before), len(after)],
        "metrics": metrics,
    }


def _paired(
    name: str, pairs: Sequence[Sequence[tuple[Sample, Sample]]], seed: int
) -> tuple[float, float, Interval]:
    """Return a metric's means before and after, and the interval of what is between."""
    known = [[pair for pair in cluster if _has(name, *pair)] for cluster in pairs]
    clusters = [[(a.metrics[name], b.metrics[name]) for a, b in some] for some in known if some]
    before, after = (fmean(pair[at] for cluster in clusters for pair in cluster) for at in (0, 1))
    between = paired_interval(
        [[b - a for a, b in cluster] for cluster in clusters],
        seed=seed,
        most=100.0 if name in ROUGES else 1.0,
    )
    return before, after, between


def _unpaired(
    name: str, before: Updates, after: Updates, seed: int
) -> tuple[float, float, Interval]:
    """Return the same where the updates are not of the same texts."""
    first, other = (
        metric_interval(
            name,
            [
                [sample.metrics[name] for sample in samples if _has(name, sample)]
                for samples in side.values()
                if any(_has(name, sample) for sample in samples)
            ],
            seed=seed,
        )
        for side in (before, after)
    )
    return first.mean, other.mean, difference_interval(other, first)


def _pairs(before: Iterable[Sample], after: Iterable[Sample]) -> list[tuple[Sample, Sample]]:
    """Return the samples of an update in both runs, or nothing where the texts are not the same."""
    left, right = [sorted(side, key=lambda sample: sample.truth_tokens) for side in (before, after)]
    same = [sample.truth_tokens for sample in left] == [sample.truth_tokens for sample in right]
    return list(zip(left, right, strict=True)) if same else []


def _metrics(before: Updates, after: Updates) -> list[str]:
    """Return the names of the metrics that both runs have."""
    sides = [
        {name for samples in side.values() for sample in samples for name in sample.metrics}
        for side in (before, after)
    ]
    known = ("exact_match", "token_accuracy", VERDICT_METRIC, *ROUGES)
    more = tuple(f"{name}_but_last" for name in known)
    return [name for name in (*known, *more) if all(name in side for side in sides)]


def _has(name: str, *samples: Sample) -> bool:
    """Return whether all ``samples`` have the metric: a text without a word has no ROUGE."""
    return all(name in sample.metrics for sample in samples)


def _utility(first: ComparedRun, other: ComparedRun) -> dict[str, Any] | None:
    """Return the difference after the last round; None where they measure different things."""
    ours, theirs = first.summary.utility, other.summary.utility
    if ours is None or theirs is None or ours.metric != theirs.metric:
        return None
    return {"metric": ours.metric, **(_figures(ours.after, theirs.after) or {})}


def _figures(before: float | None, after: float | None) -> dict[str, float | None] | None:
    if before is None and after is None:
        return None
    known = before is not None and after is not None
    return {
        "reference": before,
        "value": after,
        "difference": after - before if known else None,  # type: ignore[operator]
    }
