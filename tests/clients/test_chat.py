"""Conversations, against what transformers itself makes of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from clients import ClientSettings, DataSettings
from clients.chat import chat_ids, chat_note, rendered
from clients.data import load_corpus, shards
from clients.holdings import check_examples, client_examples
from fedsim.errors import BadInput
from fedsim.models import ModelSpec
from tests.oddities import WORDS, gpt2, saved, tokenizer, vocabulary

SPECIAL = ("<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>")
# The form of many a model's own: a start, roles as tokens, an end behind each answer; roles take
# turns, or the template refuses.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must take turns') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
TALKS = [
    [("user", "the nurse"), ("assistant", "returns a parcel")],
    [("user", "by bus"), ("assistant", "forty"), ("user", "leaves"), ("assistant", "nine desk")],
]


def messages(talk: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in talk]


def chatting(around: str = "", template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words with ``template``, which puts ``around`` every text."""
    ids = vocabulary(SPECIAL, [*WORDS, "user", "assistant", ":"])
    made = tokenizer(
        models.WordLevel(ids, unk_token="<unk>"), around,
        bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>",
    )  # fmt: skip
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL[3:])})
    made.chat_template = template
    return made


def own_ids(tokens: PreTrainedTokenizerFast, talk: list[tuple[str, str]]) -> list[int]:
    """What transformers itself makes of a conversation."""
    ids: Any = tokens.apply_chat_template(messages(talk), tokenize=True)
    return list(ids["input_ids"])


def stored(path: Path, rows: Any) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
@pytest.mark.parametrize("around", ["", "<s> $A"])
def test_messages_are_what_the_tokenizers_template_makes_of_them(
    tmp_path: Path, suffix: str, around: str
) -> None:
    rows = [{"messages": messages(talk)} for talk in TALKS]
    data = DataSettings(name=str(stored(tmp_path / f"a{suffix}", rows)), evaluate=0)
    corpus, tokens = load_corpus(data, seed=1), chatting(around)
    assert corpus.chat
    wanted = [own_ids(tokens, talk) for talk in TALKS]
    assert chat_ids(tokens, corpus.train["text"][:], 64) == wanted
    assert all(ids.count(tokens.bos_token_id) == 1 for ids in wanted)  # it is there already
    assert chat_ids(tokens, corpus.train["text"][:], 5) == [ids[:5] for ids in wanted]
    assert chat_note(tokens) == ""


def test_what_a_tokenizer_puts_around_texts_is_around_conversations_too() -> None:
    tokens = chatting("<s> $A </s>", TEMPLATE.removeprefix("{{ bos_token }}"))
    talks = [json.dumps(messages(talk)) for talk in TALKS]
    inner = [own_ids(tokens, talk) for talk in TALKS]
    start, end = tokens.bos_token_id, tokens.eos_token_id
    assert inner[0][0] != start and inner[0][-1] == end
    assert chat_ids(tokens, talks, 64) == [[start, *ids] for ids in inner]
    assert chat_ids(tokens, talks, 6) == [[start, *ids[:4], end] for ids in inner]


def test_without_a_template_a_conversation_is_lines() -> None:
    tokens = chatting("<s> $A", None)
    talk = json.dumps(messages(TALKS[0]))
    assert rendered(tokens, [talk]) == ["user: the nurse\nassistant: returns a parcel"]
    assert chat_ids(tokens, [talk], 64) == [
        tokens("user: the nurse\nassistant: returns a parcel")["input_ids"]
    ]
    assert "no chat template" in chat_note(tokens)


def test_instructions_can_be_conversations(tmp_path: Path) -> None:
    rows = [
        {"instruction": "a", "input": "b", "output": "c"},
        {"instruction": "d", "input": "", "output": "e"},
        {"instruction": "", "input": "", "output": ""},
    ]
    data = DataSettings(name=str(stored(tmp_path / "a.json", rows)), evaluate=0, template="chat")
    assert [json.loads(text) for text in load_corpus(data, seed=1).train["text"]] == [
        messages([("user", "a\n\nb"), ("assistant", "c")]),
        messages([("user", "d"), ("assistant", "e")]),
    ]


def test_conversations_in_which_nothing_is_said_are_dropped(tmp_path: Path) -> None:
    rows = [{"messages": m} for m in ([], None, messages([("user", " ")]), messages(TALKS[0]))]
    data = DataSettings(name=str(stored(tmp_path / "a.json", rows)), evaluate=0)
    texts = load_corpus(data, seed=1).train["text"][:]
    assert [json.loads(text) for text in texts] == [messages(TALKS[0])]


def test_a_prompt_beside_messages_is_not_the_text(tmp_path: Path) -> None:
    rows = [{"prompt": "the nurse", "messages": messages(TALKS[0])}]
    assert load_corpus(
        DataSettings(name=str(stored(tmp_path / "a.json", rows)), evaluate=0), seed=1
    ).chat


@pytest.mark.parametrize(
    ("cell", "got"),
    [
        ([{"from": "human", "value": "a"}], r"got \{'from': 'human', 'value': 'a'\} in it"),
        ([{"role": "user", "content": None}], r"got \{'role': 'user', 'content': None\} in it"),
        (["a"], "got 'a' in it"),
        ("hello", "got 'hello' in it"),
        (7, "got 7 in it"),
    ],
)
def test_messages_that_cannot_be_used(tmp_path: Path, cell: Any, got: str) -> None:
    rows = [{"messages": messages(TALKS[0])}, {"messages": cell}]
    data = DataSettings(name=str(stored(tmp_path / "a.json", rows)), evaluate=0, template="chat")
    line = (
        r"column 'messages', row 2: wanted a list of objects \{\"role\": text, \"content\": text\}"
    )
    with pytest.raises(BadInput, match=f"^data.template 'chat': {line}, {got}$"):
        load_corpus(data, seed=1)


def test_a_conversation_that_a_template_refuses_is_named_before_a_run(
    tmp_path: Path, settings: ClientSettings
) -> None:
    rows = [{"messages": messages(TALKS[0])} for _ in range(40)]
    data = DataSettings(name=str(stored(tmp_path / "a.json", rows)), evaluate=0)
    (order,) = shards(load_corpus(data, seed=1).train, data, clients=1, seed=1)
    rows[order[-1]] = {"messages": messages([("assistant", "nine")])}  # not among the first few
    stored(tmp_path / "a.json", rows)
    model = ModelSpec(
        name=str(saved(tmp_path / "model", gpt2(len(SPECIAL) + len(WORDS) + 3), chatting())),
        task="causal-lm",
    )
    with pytest.raises(BadInput, match=r"template refuses a conversation: .*roles must take turns"):
        check_examples(model, data, 16, 1, 1)
    stored(tmp_path / "b.json", [row for row in rows if len(row["messages"]) > 1])
    data = replace(data, name=str(tmp_path / "b.json"))
    check_examples(model, data, 16, 1, 1)
    held = client_examples(replace(settings, model=model, data=data, clients=1), 0)
    wanted = own_ids(chatting(), TALKS[0])
    assert held.sequences == (tuple(wanted),) * 39
