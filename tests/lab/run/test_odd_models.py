"""Models that are odd in one respect, in a run: used and said, or refused before it begins."""

from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2ForSequenceClassification

from fedsim.errors import BadInput
from fedsim.lab.display import Silent
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.store.run import RunDirectory
from tests.lab.conftest import experiment
from tests.oddities import WORDS, bert, gpt2, saved

V = 5 + len(WORDS)


def texts(path: Path, *rows: str) -> dict[str, Any]:
    """Return the [data] table of a file with ``rows``, four times each."""
    path.write_text(
        "text,label\n" + "".join(f"{row},{at % 2}\n" for at in range(4) for row in rows)
    )
    return {"name": str(path), "evaluate": 0}


def test_a_new_head_is_a_note_of_the_run(tmp_path: Path) -> None:
    three = GPT2ForSequenceClassification(gpt2(V, num_labels=3, pad_token_id=0).config)
    name = str(saved(tmp_path / "model", three))
    data = texts(tmp_path / "rows.csv", "the nurse returns", "a parcel leaves")
    config = experiment(model={"name": name}, data=data, federation={"clients": 1, "rounds": 1,
                        "clients_per_round": 1})  # fmt: skip
    ready = prepare(config)
    run = RunDirectory(tmp_path / "run")
    run.create(config)
    summary, _ = run_experiment(ready, run, Silent())
    assert [note for note in summary.notes if "the head is new" in note] == ready.adapter.notes
    assert len(ready.adapter.notes) == 1


def test_masked_texts_of_unknown_words_are_no_round_of_nothing(tmp_path: Path) -> None:
    name = str(saved(tmp_path / "model", bert(V)))
    one = {"clients": 1, "clients_per_round": 1, "rounds": 1}
    unknown = ["zur zweiten Reihe", "drei Stufen tiefer", "vier Wochen lang"]
    data = texts(tmp_path / "some.csv", *unknown, "the nurse returns", "a parcel leaves")
    model = {"name": name, "task": "masked-lm"}
    config = experiment(model=model, data={**data, "evaluate": 2}, federation=one)
    run = RunDirectory(tmp_path / "run")
    run.create(config)
    summary, _ = run_experiment(prepare(config), run, Silent())
    assert summary.rounds == 1 and not summary.failures
    data = texts(tmp_path / "none.csv", *unknown)
    with pytest.raises(BadInput, match=r"data.name: client 0 holds no text to train on: .*tokens"):
        prepare(experiment(model=model, data=data, federation=one))


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"layer_norm_epsilon": -1.0}, "the loss of '.*' is no finite number"),
        ({"scale_attn_weights": "no"}, "model.name: "),
        ({"n_layer": 3}, "lack 12 of the model's"),
    ],
)
def test_a_model_that_gives_no_numbers_is_said_before_it_is_trained(
    tmp_path: Path, config: dict[str, Any], line: str
) -> None:
    name = str(saved(tmp_path / "model", gpt2(V), **config))
    data = texts(tmp_path / "rows.csv", "the nurse returns", "a parcel leaves", "bus forty")
    with pytest.raises(BadInput, match=line):
        prepare(experiment(model={"name": name}, data=data))
