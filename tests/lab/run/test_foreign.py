"""Projects that are not ours are read whatever they call their weights."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from fedsim.captures import CapturePath, find_captures, place, read_capture
from fedsim.errors import BadInput
from fedsim.lab.display import Silent
from fedsim.lab.run.replay import prepare_replay, run_replay
from fedsim.lab.store.summary import Summary
from tests.lab.run.projects import (
    Net,
    Taught,
    Wrapped,
    adapters,
    capture,
    classifier,
    compiled,
    generator,
    listed,
    listed_adapters,
    lora,
    named,
    saved,
    truth,
    untied,
)

LORA = functools.partial(lora, r=64, lora_alpha=128, target_modules=["c_attn"], fan_in_fan_out=True)


DORA = functools.partial(LORA, use_dora=True)
IDS = torch.tensor([[9, 10, 11, 12, 13, 14, 15]])

pytestmark = pytest.mark.slow  # whole attacks


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "gpt2", "gpt2-tiny")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "bert", "bert-tiny")


def attack(captures: Path, *words: str, kind: str = "dager", quick: bool = False) -> Summary:
    held = truth(captures.parent / "truth.jsonl")
    made = prepare_replay(captures, kind, words, None, held)
    return run_replay(made, Silent(), quick=quick)[0]


@pytest.mark.parametrize(
    ("build", "state", "note"),
    [
        (classifier, named, ""),
        (classifier, compiled, "without what wrappers put in"),
        (classifier, listed, "by their place"),
        (Wrapped, named, "without 'model.' before them"),
        (Net, named, "with 'transformer.' before them"),
        (Net, listed, "by their place"),
        (generator, named, ""),
        (LORA, adapters, "without what wrappers put in"),
        (LORA, listed_adapters, "by their place"),
        (Taught, named, "without 'learner.' before them"),
        (untied, named, "'lm_head.weight' is no copy of 'transformer.wte.weight'"),
        (untied, listed, "is no copy of '0'"),
        (DORA, adapters, "without what wrappers put in"),
        (DORA, listed_adapters, "taken to be c_attn"),
    ],
    ids=lambda value: getattr(value, "__name__", "adapters" if callable(value) else str(value)),
)
def test_a_project_is_read_by_whatever_names(
    tmp_path: Path, gpt2: str, build: Callable[[str], nn.Module], state: Any, note: str
) -> None:
    captures = capture(tmp_path / "captures", gpt2, build, state)
    said = ["model.lora_alpha=128"] if build in (LORA, DORA) else []
    summary = attack(captures, f"model.name={gpt2}", *said, quick=True)
    exact = "exact_match_but_last" if build in (generator, untied) else "exact_match"
    assert summary.leakage["dager"][exact].mean == 1.0
    assert note in " ".join(summary.notes)


def test_a_project_is_judged_as_a_run_of_ours(tmp_path: Path, gpt2: str) -> None:
    config = {"lr": 0.05, "local-epochs": 1, "optim": "SGD"}
    captures = capture(tmp_path / "captures", gpt2, Wrapped, named, config=config)
    summary = attack(captures, f"model.name={gpt2}")
    assert summary.verdicts["dager"].verdict == "leak"
    assert all(entry.controls["positive"]["exact_match"] == 1.0 for entry in summary.attacks)
    assert {"no_gradient", "other_update"} <= set(summary.attacks[0].controls)


def test_silence_proves_nothing_where_nobody_said_how_clients_train(
    tmp_path: Path, gpt2: str
) -> None:
    captures = capture(tmp_path / "captures", gpt2, classifier, named, optimizer="adamw")
    summary = attack(captures, f"model.name={gpt2}")
    judged = summary.verdicts["dager"]
    assert judged.verdict == "inconclusive"
    assert "training.learning_rate, training.optimizer, training.local_epochs" in judged.reason


def test_matching_takes_the_rate_that_is_said(tmp_path: Path, bert: str) -> None:
    """What the broadcast does not say, the command line does."""
    captures = capture(tmp_path / "captures", bert, classifier, named)
    words = [f"model.name={bert}", "steps=2"]
    silent = attack(captures, *words, kind="tag", quick=True)
    assert "does not say learning_rate" in (silent.attacks[0].error or "")
    told = attack(captures, *words, "training.learning_rate=0.05", kind="tag", quick=True)
    assert [entry.error for entry in told.attacks] == [None, None]


def test_matching_needs_the_head_that_is_the_projects_own(tmp_path: Path, bert: str) -> None:
    captures = capture(tmp_path / "captures", bert, Net, named)
    with pytest.raises(BadInput, match="computes the client's loss, but the project has a head"):
        prepare_replay(captures, "tag", [f"model.name={bert}"], None)
    assert "a head of its own" in " ".join(attack(captures, f"model.name={bert}").notes)


def test_without_truth_it_is_said_what_was_read(tmp_path: Path, gpt2: str) -> None:
    captures = capture(tmp_path / "captures", gpt2, classifier, named)
    made = prepare_replay(captures, "dager", [f"model.name={gpt2}"], None)
    reason = run_replay(made, Silent())[0].verdicts["dager"].reason
    assert "--truth FILE" in reason and "4 texts were read, all of them as sure" in reason


def test_examples_that_a_project_miscounts_can_be_said(tmp_path: Path, bert: str) -> None:
    """Flower's own quickstart states mini-batches: one, of two texts."""
    captures = capture(tmp_path / "captures", bert, classifier, named, stated=1)
    told = attack(captures, f"model.name={bert}", quick=True)
    assert told.leakage["dager"]["exact_match"].mean == 0.5
    assert "Client 0 states 1 examples in round 1 where the truth has 2" in " ".join(told.notes)
    unknown = attack(captures, f"model.name={bert}", "data.num_examples=0", quick=True)
    assert unknown.leakage["dager"]["exact_match"].mean == 1.0
    assert "states" not in " ".join(unknown.notes)
    silent = prepare_replay(captures, "dager", [f"model.name={bert}"], None)
    reason = run_replay(silent, Silent())[0].verdicts["dager"].reason
    assert "2 texts were read" in reason and "data.num_examples=0 keeps it" in reason


@pytest.mark.parametrize("build", [LORA, DORA], ids=["lora", "dora"])
def test_rounds_after_adapters_count_hang_on_alpha(tmp_path: Path, gpt2: str, build: Any) -> None:
    """The weights of round 2, loaded under our names, compute what the project's own model does."""
    captures = capture(tmp_path / "captures", gpt2, build, adapters, rounds=2, rate=0.2)
    (theirs,) = {where.directory for where in find_captures(captures) if where.round == 2} - {
        place(captures, 2, 1)
    }
    sent = read_capture(CapturePath(2, 0, theirs)).broadcast.parameters
    model: Any = build(gpt2)
    model.eval()
    peft.set_peft_model_state_dict(model, dict(sent))
    told = {}
    for words in ((), ("model.lora_alpha=128",)):
        made = prepare_replay(captures, "dager", [f"model.name={gpt2}", *words], None)
        ours: Any = made.adapter.load(made.read(CapturePath(2, 0, theirs)).broadcast.parameters)
        with torch.no_grad():
            told[words] = (ours(input_ids=IDS).logits - model(input_ids=IDS).logits).abs().max()
        assert made.foreign is not None
        assert ("model.lora_alpha was not said" in " ".join(made.foreign.notes)) == (not words)
    assert told["model.lora_alpha=128",] < 1e-6 < 1e-3 < told[()]
    summary = attack(captures, f"model.name={gpt2}", "model.lora_alpha=128", quick=True)
    assert summary.leakage["dager"]["exact_match"].mean == 1.0


@pytest.mark.parametrize(
    ("build", "state", "words", "line"),
    [
        (classifier, named, ["model.lora_rank=4"], "hold no adapters of LoRA"),
        (LORA, adapters, ["model.lora_rank=4"], "adapters with lora_rank 64, got 4"),
        (classifier, named, ["training.speed=1"], "unknown key 'training.speed'"),
        (
            classifier,
            named,
            ["training.optimizer=lion"],
            "wanted 'sgd', 'momentum' or 'adamw', got 'lion'",
        ),
        (classifier, named, ["training.learning_rate=-1"], "training.learning_rate: wanted"),
        (classifier, named, ["training.learning_rate=nan"], "training.learning_rate: wanted"),
        (classifier, named, ["training.local_epochs=1000000000"], "training.local_epochs: wanted"),
        (classifier, named, ["data.max_length=1"], "wanted an integer, 2 or more"),
        (classifier, named, ["data.num_examples=-1"], "wanted an integer, 0 or more, got -1"),
        (classifier, named, ["data.name=x"], "unknown key 'data.name'"),
        (classifier, named, ["training=1"], "wanted training.<key>=value"),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, gpt2: str, build: Any, state: Any, words: list[str], line: str
) -> None:
    captures = capture(tmp_path / "captures", gpt2, build, state)
    with pytest.raises(BadInput, match=line):
        prepare_replay(
            captures, "dager", [f"model.name={gpt2}", *words], None, truth(tmp_path / "t.jsonl")
        )


def test_captures_of_another_model_look_like_what_they_are(
    tmp_path: Path, gpt2: str, bert: str
) -> None:
    captures = capture(tmp_path / "captures", bert, classifier, named)
    with pytest.raises(BadInput, match=r"of another model than .*they look like width \d+"):
        prepare_replay(captures, "dager", [f"model.name={gpt2}"], None)


def test_an_adapters_directory_says_how_it_adapts(tmp_path: Path, gpt2: str) -> None:
    made_by_peft: Any = LORA(gpt2, r=8, lora_alpha=32)
    made_by_peft.save_pretrained(tmp_path / "adapter")
    captures = capture(
        tmp_path / "captures",
        gpt2,
        functools.partial(LORA, r=8, lora_alpha=32),
        adapters,
    )
    made = prepare_replay(captures, "dager", [f"model.name={tmp_path / 'adapter'}"], None)
    spec = made.adapter.spec
    assert (spec.name, spec.lora_rank, spec.lora_alpha) == (gpt2, 8, 32)


def test_a_truth_of_other_texts_proves_nothing(tmp_path: Path, gpt2: str) -> None:
    config = {"lr": 0.05, "local-epochs": 1, "optim": "SGD", "batch-size": 4, "dropout": False}
    captures = capture(tmp_path / "captures", gpt2, classifier, named, config=config)
    other = {0: ["A heron waits by the weir."], 1: ["Two letters came back unopened."]}
    held = truth(tmp_path / "other.jsonl", other)
    made = prepare_replay(captures, "dager", [f"model.name={gpt2}"], None, held)
    judged = run_replay(made, Silent())[0].verdicts["dager"]
    assert judged.verdict == "inconclusive" and "were read as sure" in judged.reason


@pytest.mark.parametrize("state", [named, listed])
@pytest.mark.parametrize(("sent", "said"), [(4, 2), (2, 4)])
def test_a_model_of_another_depth_is_another_model(
    tmp_path: Path, gpt2: str, state: Any, sent: int, said: int
) -> None:
    folders = {depth: str(_cut(gpt2, tmp_path / str(depth), depth)) for depth in (sent, said)}
    captures = capture(tmp_path / "captures", folders[sent], classifier, state)
    with pytest.raises(BadInput, match="the captures are of another model than"):
        prepare_replay(captures, "dager", [f"model.name={folders[said]}"], None)


def _cut(where: str, folder: Path, depth: int) -> Path:
    shutil.copytree(where, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": depth}))
    return folder


def test_arrays_that_are_no_numbers_are_one_line(tmp_path: Path, gpt2: str) -> None:
    def quantised(module: nn.Module) -> dict[str, torch.Tensor]:
        return {name: (100 * value).to(torch.int8) for name, value in named(module).items()}

    captures = capture(tmp_path / "captures", gpt2, classifier, quantised)
    with pytest.raises(BadInput, match=r"holds no capture|another model"):
        prepare_replay(captures, "dager", [f"model.name={gpt2}"], None)


def test_another_name_of_adapters_is_dropped(tmp_path: Path, gpt2: str) -> None:
    def renamed(module: nn.Module) -> dict[str, torch.Tensor]:
        state = {k: v for k, v in module.state_dict().items() if "lora_" in k or "score" in k}
        return {name.replace(".default.", ".client7."): value for name, value in state.items()}

    captures = capture(tmp_path / "captures", gpt2, LORA, renamed)
    summary = attack(captures, f"model.name={gpt2}", "model.lora_alpha=128", quick=True)
    assert summary.leakage["dager"]["exact_match"].mean == 1.0
