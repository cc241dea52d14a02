"""How well an attack told members from others, beside its controls, with a verdict.

Source: Carlini et al., "Membership Inference Attacks From First Principles", IEEE S&P 2022,
        arXiv:2112.03570: the rate of true positives at a low rate of false ones, not accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from fedsim.lab.scoring.intervals import cluster_interval, wilson
from fedsim.lab.store.attempts import AttackRecord
from fedsim.lab.store.figures import Interval, Verdict
from fedsim.rng import derive

RATES = {"tpr_at_1pct_fpr": 0.01, "tpr_at_0.1pct_fpr": 0.001}
WORKS = 0.3  # of the attacker's own members that it must tell, for its silence to say anything
MOST = 0.1  # more of the members than of others that may have been missed where nothing leaks
RANKED = 0.6  # of AUC, from which on a threshold that calls nobody is no absence
CALIBRATED = 0.05  # of outsiders that a threshold meant for 1 % may call members
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What an attack said of candidates, by what they are."""

    scores: dict[str, Numbers]
    called: dict[str, Numbers]  # 1.0: it took it for a member
    pairs: tuple[tuple[float, float], ...]  # the scores of members and of their twins

    @classmethod
    def of(cls, record: AttackRecord) -> "Answers":
        """Return what a record holds."""
        kinds = [asked.kind for asked in record.asked]
        named = ("member", "outsider", "twin", "other")
        rows = {kind: [row for row, one in enumerate(kinds) if one == kind] for kind in named}
        scores, called = np.array(record.scores), np.array(record.members, dtype=np.float64)
        members = {record.asked[row].row: record.scores[row] for row in rows["member"]}
        return cls(
            scores={kind: scores[some] for kind, some in rows.items()},
            called={kind: called[some] for kind, some in rows.items()},
            pairs=tuple(
                (members[record.asked[row].row], record.scores[row]) for row in rows["twin"]
            ),
        )

    def metrics(self) -> dict[str, float]:
        """Return the figures of summary.json; one that so few candidates cannot tell is absent."""
        inside, outside = self.scores["member"], self.scores["outsider"]
        if not len(inside) or not len(outside):
            return {}
        told = {"auc": auc(inside, outside)}
        for name, rate in RATES.items():
            if len(outside) * rate >= 1:
                told[name] = float((inside > np.quantile(outside, 1 - rate)).mean())
        told |= {"tpr": _share(self.called["member"]), "fpr": _share(self.called["outsider"])}
        if self.pairs:
            told["beats_twin"] = fmean(mine > twin for mine, twin in self.pairs)
        return told

    def beside(self) -> dict[str, float]:
        """Return the same of texts that are other's, where they should look like outsiders."""
        others, outside = self.scores["other"], self.scores["outsider"]
        if not len(others) or not len(outside):
            return {}
        return {"auc": auc(others, outside), "tpr": _share(self.called["other"])}


def auc(inside: Numbers, outside: Numbers) -> float:
    """Return the share of pairs in which the member's score is the higher; ties count half."""
    from scipy.stats import rankdata  # here: it takes half a second

    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)]
    pairs = len(inside) * len(outside)
    return float((ranks.sum() - len(inside) * (len(inside) + 1) / 2) / pairs)


def _share(called: Numbers) -> float:
    return float(called.mean())


def intervals(answers: Sequence[Answers], seed: int) -> dict[str, Interval]:
    """Return each figure over updates, with its 95 % interval.

    Rates are over the candidates, clustered by update; others are means over the updates: of one
    update, candidates are drawn again.
    """
    rates = {
        name: [list(one.called[kind]) for one in answers if len(one.called[kind])]
        for name, kind in (("tpr", "member"), ("fpr", "outsider"))
    }
    told = {name: rate_interval(values, seed) for name, values in rates.items() if values}
    each = [one.metrics() for one in answers]
    for name in dict.fromkeys(key for metrics in each for key in metrics):
        if name in told:
            continue
        values = [metrics[name] for metrics in each if name in metrics]
        if len(values) > 1:
            told[name] = cluster_interval([[v] for v in values], seed=seed, fraction=True)
        else:
            told[name] = _again(answers[0], name, values[0], seed)
    order = [name for metrics in each for name in metrics]
    return {name: told[name] for name in dict.fromkeys(order)}


def rate_interval(values: Sequence[Sequence[float]], seed: int) -> Interval:
    """Return a rate over candidates, each 0 or 1.

    Of few updates, or of equal answers, the bootstrap is narrower than chance is. So it is no
    narrower than Wilson's, of all candidates as if they were independent.
    """
    drawn = cluster_interval(values, seed=seed)
    count = sum(map(len, values))
    low, high = wilson(round(drawn.mean * count), count)
    return Interval(drawn.mean, min(drawn.low, low), max(drawn.high, high))


def _again(one: Answers, name: str, value: float, seed: int, times: int = 400) -> Interval:
    """Return the interval of a figure of one update, its candidates drawn again and again."""
    chance = np.random.default_rng(derive(seed, "bootstrap", name))
    drawn = []
    for _ in range(times):
        rows = {kind: _drawn(len(some), chance) for kind, some in one.scores.items()}
        scores = {kind: some[rows[kind]] for kind, some in one.scores.items()}
        called = {kind: some[rows[kind]] for kind, some in one.called.items()}
        pairs = tuple(one.pairs[place] for place in _drawn(len(one.pairs), chance))
        drawn.append(Answers(scores, called, pairs).metrics()[name])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _drawn(count: int, chance: np.random.Generator) -> NDArray[np.int64]:
    return chance.integers(max(1, count), size=count)


@dataclass(frozen=True)
class Compared:
    """What a verdict rests on: rates over updates, each with its interval."""

    members: Interval  # of them called members
    outsiders: Interval
    others: Interval | None  # other clients' texts; None: nobody else was there
    on_own: Interval | None  # the client's members, of the attacker's own update
    own: Interval | None  # the attacker's members of its own update; None: no control was run
    own_outsiders: Interval | None
    error: str = ""  # why the control could not be run
    unlike: bool = False  # the attack itself found public texts unlike the candidates
    auc: float = 0.5  # its mean over updates


def compared(
    answers: Sequence[Answers],
    controls: Sequence[Answers],
    seed: int,
    *,
    error: str = "",
    unlike: bool = False,
) -> Compared:
    """Return the rates of an attack's ``answers`` and of its positive ``controls``."""

    def rate(some: Sequence[Answers], kind: str) -> Interval | None:
        values = [list(one.called[kind]) for one in some if len(one.called[kind])]
        return rate_interval(values, seed) if values else None

    members, outsiders = rate(answers, "member"), rate(answers, "outsider")
    assert members is not None and outsiders is not None  # an update without is not scored
    return Compared(
        members=members,
        outsiders=outsiders,
        others=rate(answers, "other"),
        on_own=rate(controls, "other"),
        own=rate(controls, "member"),
        own_outsiders=rate(controls, "outsider"),
        error=error,
        unlike=unlike,
        auc=float(np.mean([one.metrics()["auc"] for one in answers])),
    )


def decide(told: Compared) -> tuple[Verdict, str]:
    """Return the verdict and one sentence of reason.

    ``leak``: more members than others are called members, beyond all intervals: than outsiders,
    than other clients' texts; and than the same texts where the update is the attacker's own.
    ``no-leak``: not so, and the attack tells its own members of its own update, does not rank
    members above others either, and so many were asked about that hardly any can have been missed.
    """
    negative = {"outsiders": told.outsiders}
    negative |= {"other clients' texts": told.others} if told.others else {}
    name, worst = max(negative.items(), key=lambda item: (item[1].high, item[0]))
    found = f"{_show(told.members)} of the members are recognised"
    versus = f"{_show(worst)} of {name}"
    loose = told.outsiders.low > CALIBRATED
    said = ""
    if loose or told.unlike:
        said = " Public texts are not like the candidates, so its own threshold may be wrong."
    works = (
        told.own is not None
        and told.own_outsiders is not None
        and told.own.mean >= WORKS
        and told.own.low > told.own_outsiders.high
    )
    above = told.members.low > max(worst.high, told.on_own.mean if told.on_own else 0.0)
    if above and (works or told.own is None):
        return "leak", f"{found}, but {versus}.{said}"
    if above:
        return "inconclusive", (
            f"{found}, and {versus}, but of an update of its own it recognises "
            f"{'nothing' if told.own is None else _show(told.own)}: what it says is not understood."
        )
    if told.own is None:
        why = told.error or "its positive control was not run"
        return "inconclusive", f"{found}, and {versus}, but {why}."
    if not works:
        return "inconclusive", (
            f"{found}, and {versus}; but of the attacker's own update it recognises "
            f"{_show(told.own)} of the members, so its silence says nothing."
        )
    if told.auc > RANKED or told.unlike or loose or told.members.high - worst.mean > MOST:
        return "inconclusive", (
            f"{found}, no more than {versus}; but with an AUC of {told.auc:.2f}, and so many asked "
            f"about, that is no absence.{said}"
        )
    return "no-leak", (
        f"{found}, no more than {versus}, while of the attacker's own update it recognises "
        f"{_show(told.own)}.{said}"
    )


def _show(rate: Interval) -> str:
    return f"{rate.mean:.1%} [{rate.low:.1%}, {rate.high:.1%}]"
