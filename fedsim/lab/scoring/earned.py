"""The run's verdict: no leak is earned by attacks of every kind that applies, each one working.

One attack's silence says nothing of what another kind reads: top-k stops DAGER, not ``bag``.
So a run has ``no-leak`` only where an attack of each kind that fits the model found nothing, showed
by its controls that it works, and knew of the defense in force.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from attacks import ATTACKS, Attack
from fedsim.errors import BadInput
from fedsim.lab.store.figures import Verdict
from fedsim.lab.store.summary import Judgement, RunVerdict
from fedsim.models import ModelAdapter
from fedsim.types import Kind

FIRST: Mapping[Kind, str] = {"span": "dager", "matching": "lamp", "analytic": "bag"}
"""The attack to try first of each kind that takes an attacker neither texts like the clients' nor
training, as ``membership`` and ``learned`` do: those are asked for, and said to be missing."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One attack of a run.

    Attributes:
        attack: as it was run.
        judged: its verdict.
        told: whether it knew of the defense in force, or there is none.
        fits: whether what it goes by is in such updates; if not, its silence means nothing.
    """

    attack: Attack
    judged: Judgement
    told: bool
    fits: bool = True

    @property
    def works(self) -> bool:
        """Whether its finding nothing counts."""
        return self.told and self.fits and self.judged.verdict == "no-leak"


def kinds_for(model: ModelAdapter) -> dict[Kind, str]:
    """Return the kinds of :data:`FIRST` that fit updates of ``model``, each with what to try."""
    fit = {name for name, made in ATTACKS.items() if _fits(made(), model)}
    found = dict[Kind, str]()
    for kind, first in FIRST.items():
        some = [name for name in (first, *ATTACKS) if name in fit and ATTACKS[name].kind == kind]
        if some:
            found[kind] = some[0]
    return found


def _fits(attack: Attack, model: ModelAdapter) -> bool:
    try:
        attack.check(model)
    except BadInput:
        return False
    return attack.applies(model)


def run_verdict(tried: Mapping[str, Tried], kinds: Mapping[Kind, str]) -> RunVerdict:
    """Return one verdict for all attacks of a run.

    Args:
        tried: the attacks, by the names that their scores have.
        kinds: those that apply, with what to try, see :func:`kinds_for`.
    """
    working = {one.attack.kind for one in tried.values() if one.works}
    there = list(dict.fromkeys(one.attack.kind for one in tried.values() if one.attack.kind))
    missing = [kind for kind in kinds if kind not in working]
    leaks = [name for name, one in tried.items() if one.judged.verdict == "leak"]
    verdict: Verdict = "leak" if leaks else "no-leak"
    if leaks:
        said = [f"{leaks[0]}: {tried[leaks[0]].judged.reason}"]
    elif gaps := [*_gaps(tried, working), *_untried(tried, missing, kinds)]:
        verdict, said = "inconclusive", gaps
    elif tried:
        others = [kind for kind in get_args(Kind) if kind not in there]
        said = [f"Attacks of each kind found nothing, and work: {_all(there)}."]
        said += [f"Not tried, as it takes texts or training: {_all(others)}."] if others else []
    else:
        verdict, said = "inconclusive", ["Nothing was attacked."]
    return RunVerdict(verdict=verdict, reason=" ".join(said), tried=there, missing=missing)


def _gaps(tried: Mapping[str, Tried], working: Collection[str]) -> list[str]:
    """Return why attacks that found nothing do not count, where no other of their kind does."""
    fit = {name: one for name, one in tried.items() if one.fits}
    open_ = {k: one for k, one in fit.items() if not (one.attack.kind in working or one.works)}
    unsure = [name for name, one in open_.items() if one.judged.verdict == "inconclusive"]
    untold = [name for name, one in open_.items() if one.judged.verdict == "no-leak"]
    said = [f"Of {_all(unsure)} the verdict is inconclusive."] if unsure else []
    if untold:
        said.append(f"The silence of {_all(untold)} does not count: the defense was not known to "
                    "it (knowledge = {defense = true}).")  # fmt: skip
    return said


def _untried(
    tried: Mapping[str, Tried], missing: Sequence[Kind], kinds: Mapping[Kind, str]
) -> list[str]:
    """Return what to try of the kinds of which nothing that fits was."""
    fit = {one.attack.kind for one in tried.values() if one.fits}
    never = [kind for kind in missing if kind not in fit]
    if not never:
        return []
    add = _all([kinds[kind] for kind in never])
    return [f"No {_all(never, 'or')} attack was tried, which reads what others do not: add {add}."]


def _all(words: Sequence[str], last: str = "and") -> str:
    *first, end = words
    return f"{', '.join(first)} {last} {end}" if first else end
