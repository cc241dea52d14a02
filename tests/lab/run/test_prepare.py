"""What ``prepare`` refuses, and in which order: a user is told one thing at a time."""

import json
from pathlib import Path
from typing import Any

import pytest

from clients.corpus import clinic
from fedsim.errors import BadInput
from fedsim.lab.config import apply, check
from fedsim.lab.run.prepare import prepare

RIGHT: dict[str, Any] = {
    "model": {"name": "builtin:gpt2-tiny"},
    "data": {"name": "builtin:clinic", "evaluate": 4, "max_length": 12},
    "federation": {"clients": 4, "clients_per_round": 3, "rounds": 1},
    "training": {"batch_size": 2},
}

# Each is wrong in one way; the first word of what is said about it. From the words of the config,
# by what takes a moment, to what takes the model and the data: the order of the checks.
WRONG = [
    (["tracker=nobody"], "unknown tracker"),
    (['attack=[{name="nobody"}]'], "unknown attack 'nobody'"),
    (["defense=nobody"], "unknown defense 'nobody'"),
    (["federation.strategy=nobody"], "federation.strategy: unknown strategy"),
    (["data.encoding=nothing"], "data.encoding: wanted an encoding of text"),
    (["model.name=builtin:nobody"], "model.name"),
    (["data.name=nothing.csv"], "data.name"),
    (["device=cuda:99"], "device: 'cuda:99' is not here"),
    (["data.max_length=100000"], "data.max_length must be at most the model's"),
    (['attack=[{name="dager", rounds=[99]}]'], "attack.rounds: must be below 2 here, got 99"),
    (["model.freeze=[\"nothing\"]"], "model.freeze"),
    (["federation.engine=ray", "federation.cpus_per_client=1e6"], "federation.cpus_per_client"),
    (['defense={name="secagg"}', "federation.clients_per_round=1"], "defense"),
    (['defense={name="secagg"}', "federation.strategy=krum"], "federation.strategy: under secure"),
]  # fmt: skip


def complaint(*words: str) -> str:
    tree: dict[str, Any] = {key: dict(table) for key, table in RIGHT.items()}
    for word in words:
        apply(tree, word)
    with pytest.raises(BadInput) as caught:
        prepare(check(tree))
    return str(caught.value)


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[said for _, said in WRONG])
def test_one_wrong_thing_is_named(words: list[str], said: str) -> None:
    assert complaint(*words).startswith(said)


@pytest.mark.parametrize("first", range(len(WRONG) - 1))
def test_of_two_wrong_things_the_one_that_is_sooner_known_is_named(first: int) -> None:
    (sooner, said), (later, _) = WRONG[first : first + 2]
    assert complaint(*later, *sooner).startswith(said)


def test_all_wrong_at_once_is_told_one_by_one() -> None:
    for at, (_, said) in enumerate(WRONG):
        words = [word for words, _ in reversed(WRONG[at:]) for word in words]
        assert complaint(*words).startswith(said)


def test_an_attack_learns_from_no_text_of_the_clients(tmp_path: Path) -> None:
    texts = [text for text, _ in clinic()]
    own = next(text for text in texts if len(text.split()) >= 8)
    short = "a heading that recurs"
    data, auxiliary = tmp_path / "data.csv", tmp_path / "aux.txt"
    data.write_text("text,label\n" + "".join(f'"{t}",{i % 2}\n' for i, t in enumerate(texts)))
    auxiliary.write_text(f"others' text\n{short}\n")
    attack = {"name": "lti", "auxiliary": str(auxiliary)}
    tree = {**RIGHT, "data": {**RIGHT["data"], "name": str(data)}, "attack": [attack]}
    prepare(check(tree))
    auxiliary.write_text(f"others' text\n {own} \n{short}\n")
    with pytest.raises(
        BadInput, match=r"attack.auxiliary: lti must learn .* but 1 lines of .* are"
    ):
        prepare(check(tree))


def test_what_the_texts_were_made_of_is_a_note(tmp_path: Path) -> None:
    rows = [{"instruction": f"say {at}", "output": str(at)} for at in range(20)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    tree = {**RIGHT, "data": {**RIGHT["data"], "name": str(tmp_path / "a.json")}}
    tree["model"] = {**RIGHT["model"], "task": "causal-lm"}
    assert prepare(check(tree)).notes == [
        "Texts are made of instruction, output by the template alpaca (data.template)."
    ]
    tree["data"]["template"] = "chat"  # the presets' tokenizer has no chat template
    assert prepare(check(tree)).notes == [
        "The tokenizer has no chat template: conversations are lines of `role: content`."
    ]
    tree["data"] = RIGHT["data"]
    assert prepare(check(tree)).notes == []


def test_examples_gradients_are_not_clipped_in_bfloat16() -> None:
    said = complaint('defense={name="dp-sgd"}', "training.compute_dtype=bfloat16")
    assert said.startswith("training.compute_dtype: must be float32 under dp-sgd")
