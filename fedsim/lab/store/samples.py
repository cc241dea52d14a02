"""A run sample by sample: what a client had, what was read of it, how well, beside the controls."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.errors import FedsimError, MalformedMessage
from fedsim.files import read_json
from fedsim.lab.scoring.scorer import Scored, Scorer
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import read_results
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.vault.reader import VaultReader


def sample_rows(run: RunDirectory) -> list[dict[str, Any]]:
    """Return one row for each (attack, round, client, sample) of a finished run.

    Keys: ``attack``, ``round``, ``client``, ``clients`` (whose update it is; several: their sum was
    attacked, and ``client`` is the first of them), ``sample`` (its place in what was attacked);
    ``truth``, ``guess`` (texts) and ``truth_tokens``, ``guess_tokens``, special tokens dropped,
    paired one to one, empty where nothing was paired; every metric of summary.json but
    ``precision``, as it defines them; ``control_<control>_<metric>``, ``verdict``, ``reason``,
    ``knowledge``, ``settings``, ``seconds`` and ``error`` of the update the sample was in. An
    update whose truth is not known has no rows.

    Raises:
        BadInput: there is no finished run.
        MalformedMessage: its files do not belong together.
    """
    summary = read_summary(run)
    try:
        return rows_of(summary, rescored(run))
    except FedsimError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedMessage(
            f"{run.root}: its files do not fit together ({type(error).__name__}: {error}); "
            "run it again"
        ) from error


def read_summary(run: RunDirectory) -> dict[str, Any]:
    """Return a finished run's summary.json.

    Raises:
        BadInput: there is no run, it is not finished, or the file does not say what it must.
    """
    run.check()
    path = run.root / "summary.json"
    read_results(run.root)  # checks it
    summary: dict[str, Any] = read_json(path)
    return summary


def rescored(run: RunDirectory) -> list[Scored]:
    """Return what was read, paired with the truth again; the controls are in summary.json."""
    scorer = Scorer(
        adapter=adapter_of(run),
        vault=VaultReader(run.vault),
        pool=(),
        controls=False,
        seed=run.config().seed,
    )
    return scorer.score(run.rows("reconstructions.jsonl"))


def adapter_of(run: RunDirectory) -> ModelAdapter:
    """Return an adapter that decodes a run's tokens; its weights are random, none are needed."""
    model = run.config().model
    return _adapter(
        ModelSpec(name=model.name, tokenizer=model.tokenizer, task=model.task, weights="random")
    )


@functools.lru_cache(maxsize=4)
def _adapter(spec: ModelSpec) -> ModelAdapter:
    return load_adapter(spec)


def rows_of(summary: Mapping[str, Any], scores: Sequence[Scored]) -> list[dict[str, Any]]:
    """Return the rows of :func:`sample_rows`, from a summary and its scores, in its order."""
    return [
        {
            "attack": entry["attack"],
            "round": entry["round"],
            "client": entry["client"],
            "clients": clients_of(entry),
            "sample": place,
            "truth": pair.truth_text,
            "guess": pair.guess_text,
            "truth_tokens": list(pair.truth),
            "guess_tokens": list(pair.guess),
            **metrics,
            **_controls(entry),
            **{key: entry[key] for key in _OF_THE_UPDATE},
        }
        for entry, one in zip(summary["attacks"], scores, strict=True)
        for place, (pair, metrics) in enumerate(zip(one.pairs, one.samples, strict=True))
    ]


def clients_of(row: Mapping[str, Any]) -> list[Any]:
    """Return the clients whose update a row or a summary's entry is about; several: their sum."""
    return list(row.get("clients") or [row["client"]])


def whose(row: Mapping[str, Any]) -> Any:
    """Return the client whose update it is, or ``sum of 0, 1, 2``."""
    clients = clients_of(row)
    return clients[0] if len(clients) == 1 else f"sum of {', '.join(map(str, clients))}"


_OF_THE_UPDATE = ("verdict", "reason", "knowledge", "settings", "seconds", "error")


def _controls(entry: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"control_{control}_{metric}": value
        for control, values in entry["controls"].items()
        for metric, value in values.items()
    }
