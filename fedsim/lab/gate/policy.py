"""A gate's policy: TOML, checked whole, so that a slip of the pen never weakens it.

[leakage.<attack>] <metric> = { max = 0.05 }                  [utility] <metric> = { min = 0.8 }
[guarantee] epsilon = { max = 8 }, delta = { max = 1e-5 }     [verdict] allow = ["no-leak"]
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from attacks import attack_table
from fedsim.errors import BadInput, shown, unknown
from fedsim.lab.config import read_toml
from fedsim.lab.run.utility import METRICS
from fedsim.lab.scoring.membership import RATES
from fedsim.lab.store.figures import COUNTS, PRECISION, ROUGES, Verdict

SECTIONS = ("leakage", "utility", "guarantee", "verdict")
FRACTIONS = (
    "exact_match", "exact_match_but_last", "token_accuracy", "token_accuracy_but_last", "bag_f1",
    *PRECISION, *COUNTS,
)  # fmt: skip
RECOGNISED = ("auc", "tpr", "fpr", *RATES, "beats_twin")  # of attacks that are asked about texts
PERCENT = (*ROUGES, *(f"{name}_paper" for name in ROUGES))
UTILITIES = {*METRICS.values(), "f1", "mcc"}
GUARANTEES = ("delta", "epsilon")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What one figure may be; ``key`` is its place in the policy, e.g. leakage.dager.bag_f1."""

    key: str
    section: str  # leakage | utility | guarantee
    attack: str  # "" outside leakage
    metric: str
    max: float | None = None
    min: float | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Thresholds, and the verdicts that are allowed (None: not asked)."""

    thresholds: tuple[Threshold, ...]
    allow: tuple[Verdict, ...] | None


def read_policy(path: Path, attacks: Collection[str], utilities: Collection[str]) -> Policy:
    """Return the policy in ``path``.

    Args:
        path: a TOML file.
        attacks: the attacks that were run, by the names that their scores have.
        utilities: the utility metrics that were measured.

    Raises:
        BadInput: an unknown key, a value that is no threshold, or nothing to check; one line.
    """
    tree = read_toml(path)
    for section, table in tree.items():
        if section not in SECTIONS:
            raise BadInput(f"policy: {unknown('key', section, SECTIONS)}")
        _table(section, table)
    thresholds = [
        *_leakage(tree.get("leakage", {}), attacks),
        *_flat("utility", tree.get("utility", {}), {*UTILITIES, *utilities}),
        *_flat("guarantee", tree.get("guarantee", {}), GUARANTEES),
    ]
    promised = {t.metric for t in thresholds if t.section == "guarantee"}
    if promised == {"epsilon"}:
        raise BadInput("policy: guarantee.epsilon: says nothing without a guarantee.delta.max")
    allow = _allow(tree["verdict"]) if "verdict" in tree else None
    if not thresholds and allow is None:
        raise BadInput(f"policy: {str(path)!r} checks nothing; wanted one of {', '.join(SECTIONS)}")
    return Policy(thresholds=tuple(thresholds), allow=allow)


def _table(key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value:
        raise BadInput(f"policy: {key}: wanted a table with at least one key, got {shown(value)}")
    return value


def _leakage(tables: Mapping[str, Any], attacks: Collection[str]) -> list[Threshold]:
    thresholds = []
    for attack, table in tables.items():
        if attack not in attacks:
            known = {*attack_table(), *attacks}
            if re.sub(r"-\d+$", "", attack) not in known:  # dager-2: the second of that name
                raise BadInput(f"policy: {unknown('key', f'leakage.{attack}', _under(known))}")
        for metric, value in _table(f"leakage.{attack}", table).items():
            key = f"leakage.{attack}.{metric}"
            if metric not in (metrics := _metrics(attack)):
                beside = [f"leakage.{attack}.{name}" for name in metrics]
                raise BadInput(f"policy: {unknown('key', key, beside)}")
            thresholds.append(_threshold(key, "leakage", attack, metric, value))
    return thresholds


def _metrics(attack: str) -> tuple[str, ...]:
    """Return the names of an attack's metrics."""
    kind = attack_table().get(re.sub(r"-\d+$", "", attack))
    asked = kind is not None and "candidates" in kind.needs
    return RECOGNISED if asked else (*FRACTIONS, *PERCENT)


def _under(names: Collection[str]) -> list[str]:
    return [f"leakage.{name}" for name in names]


def _flat(section: str, table: Mapping[str, Any], known: Collection[str]) -> list[Threshold]:
    thresholds = []
    for metric, value in table.items():
        key = f"{section}.{metric}"
        if metric not in known:
            raise BadInput(
                f"policy: {unknown('key', key, [f'{section}.{name}' for name in known])}"
            )
        thresholds.append(_threshold(key, section, "", metric, value))
    return thresholds


def unnamed(policy: Policy, attacks: Collection[str]) -> list[str]:
    """Return the attacks that were run and that nothing in the policy is about."""
    named = {threshold.attack for threshold in policy.thresholds if threshold.attack}
    return sorted(set(attacks) - named) if named and policy.allow is None else []


def span(metric: str) -> tuple[float, float]:
    """Return what a figure of ``metric`` can be: its least and its greatest value."""
    if metric in PERCENT:
        return 0.0, 100.0
    if metric in (*FRACTIONS, "accuracy", "f1", "delta"):
        return 0.0, 1.0
    return (-1.0, 1.0) if metric == "mcc" else (0.0, math.inf)


def _threshold(key: str, section: str, attack: str, metric: str, value: object) -> Threshold:
    bounds = _table(key, value)
    bottom, top = span(metric)
    for name, number in bounds.items():
        if name not in ("max", "min"):
            both = [f"{key}.max", f"{key}.min"]
            raise BadInput(f"policy: {unknown('key', f'{key}.{name}', both)}")
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise BadInput(f"policy: {key}.{name}: wanted a number, got {shown(number)}")
        if name == "min" and section != "utility":
            raise BadInput(f"policy: {key}.min: more of it is no better; wanted max, got min")
        if not (math.isfinite(number) and bottom <= number <= top):
            said = f"from {bottom:g} to {top:g}" if top < math.inf else f"of at least {bottom:g}"
            raise BadInput(
                f"policy: {key}.{name}: wanted a finite number {said}, got {shown(number)}"
            )
        if number == (top if name == "max" else bottom):
            raise BadInput(f"policy: {key}.{name}: {number!r} allows everything, so checks nothing")
    return Threshold(
        key=key,
        section=section,
        attack=attack,
        metric=metric,
        max=bounds.get("max"),
        min=bounds.get("min"),
    )


def _allow(table: Mapping[str, Any]) -> tuple[Verdict, ...]:
    for name in table:
        if name != "allow":
            raise BadInput(f"policy: {unknown('key', f'verdict.{name}', ['verdict.allow'])}")
    allowed = table["allow"]
    known = isinstance(allowed, list) and all(verdict in ("leak", "no-leak") for verdict in allowed)
    if not known or not allowed:
        raise BadInput(
            "policy: verdict.allow: wanted a list of 'no-leak', 'leak' "
            f"('inconclusive' never passes), got {shown(allowed)}"
        )
    return cast("tuple[Verdict, ...]", tuple(allowed))
