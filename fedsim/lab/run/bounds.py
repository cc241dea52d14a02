"""What an attack can find at most: the upper bound that stands beside every measured recovery.

Source: a Gaussian mechanism's release tells E||g - E g||^2 / (2 std^2) <= 1 / (2 z^2) nats at most
        about a sample, R releases R times that; Fano (Cover & Thomas, theorem 2.10.1) then bounds
        the chance to name one of M equally likely texts by (I + ln 2) / ln M; cf. Guo et al.,
        ICML 2022, arXiv:2210.13662.

An English text is taken to be one of exp(NATS x tokens): guessable tokens, such as a form's, are
worth less, and may be found more often than the bound says.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from defenses.base import Private
from fedsim.lab.run.audit import of_update
from fedsim.lab.run.prepare import Experiment
from fedsim.lab.scoring.scored import Scored
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import Entry
from fedsim.vault.reader import VaultReader

NATS = 3.5  # a token of English, about, to a language model


def fano(information: float, tokens: float) -> float:
    """Return the largest share of texts of ``tokens`` tokens found exactly, given ``information``.

    Args:
        information: about one text, in nats.
        tokens: its length, special ones left out.
    """
    return min(1.0, (information + math.log(2.0)) / max(NATS * tokens, 1e-9))


def bounded(
    entries: Sequence[Entry], scores: Sequence[Scored], experiment: Experiment, run: RunDirectory
) -> list[Entry]:
    """Return summary.json's attacks with the bound beside each, where a defense gives one."""
    vault = VaultReader(run.vault)
    rows = []
    for entry, score in zip(entries, scores, strict=True):
        measured = of_update(vault, entry.round, score.attempt.client, len(experiment.defenses))
        nats = _nats(experiment, measured)
        lengths = [len(pair.truth) for pair in score.pairs]
        if nats is not None and lengths:
            most = sum(fano(nats, length) for length in lengths) / len(lengths)
            bound = {"nats": nats, "exact_match": most, "nats_per_token": NATS}
            entry = entry.model_copy(update={"bound": bound})
        rows.append(entry)
    return rows


def _nats(experiment: Experiment, measured: Mapping[str, Any]) -> float | None:
    """Return what one update tells about a sample at most: the strongest defense's figure."""
    rows = measured.get("defenses", [{}] * len(experiment.defenses))
    told = [
        defense.nats() * row.get("steps", 1.0)
        for defense, row in zip(experiment.defenses, rows, strict=True)
        if isinstance(defense, Private) and math.isfinite(defense.distance())
    ]
    return min(told) if told else None
