"""A finished run's samples: as they were written, or scored again, of a run older than that."""

import functools
from collections.abc import Mapping

from fedsim.errors import MalformedMessage
from fedsim.lab.scoring.scored import Scored, samples_of
from fedsim.lab.scoring.scorer import Scorer
from fedsim.lab.store import layout
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.samples import Sample
from fedsim.lab.store.summary import Entry, Summary
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.vault.reader import VaultReader


def samples_of_run(run: RunDirectory, summary: Summary) -> list[Sample]:
    """Return the samples that ``summary`` is of, in its order; nothing in ``run`` is changed.

    Before samples.jsonl was written a run left its guesses and the truth: those are paired again,
    and what is of a whole update (controls, verdict) is what the summary says.

    Raises:
        MalformedMessage: its files are broken, or do not belong together, or the truth is gone.
    """
    path = run.root / layout.SAMPLES
    if path.exists():
        return run.samples(summary)
    scorer = Scorer(
        adapter=adapter_of(run),
        vault=VaultReader(run.vault),
        pool=(),
        controls=False,
        seed=summary.seed,
    )
    scores = scorer.score(run.attacked(summary))
    for scored, entry in zip(scores, summary.attacks, strict=True):
        if len(scored.samples) != entry.samples:
            raise MalformedMessage(
                f"{path} is missing, as in runs of before it was written, and so is the truth in "
                f"{run.vault}: sample by sample this run cannot be shown any more"
            )
        _as_summarized(scored, entry)
    return samples_of(scores)


def _as_summarized(scored: Scored, entry: Entry) -> None:
    """Have ``scored`` say what the summary says of the whole update."""
    controls: Mapping[str, Mapping[str, float]] = entry.controls
    scored.controls = {control: dict(metrics) for control, metrics in controls.items()}
    scored.verdict, scored.reason = entry.verdict, entry.reason


def adapter_of(run: RunDirectory) -> ModelAdapter:
    """Return an adapter that decodes a run's tokens; its weights are random, none are needed."""
    model = run.config().model
    return _adapter(
        ModelSpec(name=model.name, tokenizer=model.tokenizer, task=model.task, weights="random")
    )


@functools.lru_cache(maxsize=4)
def _adapter(spec: ModelSpec) -> ModelAdapter:
    return load_adapter(spec)
