"""A run's directory made by rules from a seed: what a report reads, without any training."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clients.corpus import clinic
from fedsim.files import write_lines
from fedsim.lab.config import check
from fedsim.lab.scoring.again import adapter_of
from fedsim.lab.scoring.scored import entry_of, samples_of
from fedsim.lab.scoring.scorer import Scorer
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import Summary, Utility
from fedsim.vault.reader import VaultReader


def synthetic_run(
    root: Path,
    *,
    rounds: int = 2,
    clients: int = 2,
    batch: int = 3,
    texts: Sequence[str] = (),
    read: float = 0.7,
    seed: int = 1,
    sections: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Write a finished run; an attack that read a share ``read`` of the tokens, and its controls.

    Args:
        root: where.
        rounds, clients, batch: how many updates, and how many texts in each.
        texts: the clients' first texts; the built-in corpus fills up.
        read: chance that a token was read; the others are wrong.
        seed: of all that is random.
        sections: tables of the config to set.
        summary: keys of summary.json to set.
    """
    draw = random.Random(seed)
    run = RunDirectory(root)
    tree = {
        "name": "synthetic",
        "seed": seed,
        "model": {"name": "builtin:gpt2-tiny"},
        "data": {"name": "builtin:clinic"},
        "federation": {"clients": clients, "rounds": rounds},
        "attack": "dager",
        **(sections or {}),
    }
    run.create(check(tree))
    adapter = adapter_of(run)
    corpus = [text for text, _ in clinic()]
    left = [*texts, *draw.choices(corpus, k=max(0, rounds * clients * batch - len(texts)))]
    lines = []
    for round_ in range(1, rounds + 1):
        for client in range(clients):
            some, left = left[:batch], left[batch:]
            truth = [adapter.tokenizer(text)["input_ids"] for text in some]
            where = run.vault / f"round={round_}" / f"client={client}.jsonl"
            write_lines(where, [{"tokens": one, "label": 0} for one in truth])
            guess = [
                [t if draw.random() < read else draw.randrange(len(adapter.tokenizer)) for t in one]
                for one in truth
            ]
            own = [adapter.tokenizer(text)["input_ids"] for text in corpus[:batch]]
            for role, sequences in (("attack", guess), ("positive", own)):
                lines.append(_line(adapter, role, round_, client, sequences, own))
    write_lines(run.root / "reconstructions.jsonl", lines)
    run.note_pool([adapter.tokenizer(text)["input_ids"] for text in corpus[-64:]])
    _summarize(run, rounds, seed, summary or {})
    return run


def _line(
    adapter: Any, role: str, round_: int, client: int, sequences: list[list[int]], own: Any
) -> dict[str, Any]:
    return {
        "attack": "dager",
        "role": role,
        "round": round_,
        "client": client,
        "settings": {"max_pairs": 5},
        "knowledge": {},
        "seconds": 0.5,
        "sequences": sequences,
        "texts": [adapter.tokenizer.decode(one) for one in sequences],
        "diagnostics": {},
        "error": None,
        **({"truth": own} if role == "positive" else {}),
    }


def _summarize(
    run: RunDirectory,
    rounds: int,
    seed: int,
    more: Mapping[str, Any],
) -> None:
    scorer = Scorer(
        adapter=adapter_of(run),
        vault=VaultReader(run.vault),
        pool=run.pool(),
        controls=True,
        seed=seed,
    )
    scores = scorer.score(run.attempts())
    leakage, verdicts = scorer.leakage(scores)
    between = [0.5 + 0.3 * k / rounds for k in range(1, rounds)]
    summary = Summary(
        schema=1,
        name="synthetic",
        seed=seed,
        engine="inline",
        rounds=rounds,
        seconds=2.5,
        utility=Utility(metric="accuracy", before=0.5, after=0.8, per_round=[*between, 0.8]),
        guarantee=None,
        attacks=[entry_of(scored) for scored in scores],
        leakage=leakage,
        verdicts=verdicts,
        failures=[],
        notes=scorer.notes(scores),
    )
    samples = samples_of(scores) if more.get("attacks") != [] else []
    run.finish(Summary.model_validate({**summary.as_dict(), **more}), samples)


def cell(
    name: str, settings: Mapping[str, Any], config: Mapping[str, Any], status: str = "done"
) -> dict[str, Any]:
    """Return a cell as sweep.json has it."""
    return {
        "name": name,
        "settings": settings,
        "training": name,
        "status": status,
        "config": config,
    }


def sweep_of(
    axes: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], words: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a sweep as sweep.json has it."""
    return {
        "schema": 1, "name": "s", "words": words, "quick": False, "axes": axes, "base": {},
        "cells": cells,
    }  # fmt: skip
