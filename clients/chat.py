"""Conversations: lists of {role, content}, which a tokenizer's own chat template makes a text of.

Until a tokenizer is at hand a conversation is kept as JSON.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from clients.templates import INPUT, INSTRUCTION, OUTPUT, named_cells
from clients.values import blank
from fedsim.errors import BadInput, quote, reading, shown
from fedsim.models.tokenizing import around

MESSAGES = "messages"  # the column's name


@dataclass(frozen=True)
class Messages:
    """Conversations from a column of lists."""

    columns: Sequence[str] = (MESSAGES,)
    note: str = ""
    chat = True
    response = ""

    def texts(self, frame: pd.DataFrame) -> list[str]:
        """Return each row's conversation; "" for one that is blank or has nothing said in it.

        Raises:
            BadInput: a cell is no list of {role, content}.
        """
        (column,) = self.columns
        return [_conversation(cell, column, row) for row, cell in frame[column].items()]


@dataclass(frozen=True)
class Turns:
    """Conversations of two turns: a user who instructs, an assistant who answers."""

    places: Mapping[str, str]  # of instruction, input, output: the columns
    note: str = ""
    chat = True
    response = ""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that a text is made of."""
        return list(self.places.values())

    def texts(self, frame: pd.DataFrame) -> list[str]:
        """Return each row's conversation; "" for one whose cells are all blank."""
        return [
            _kept([("user", "\n\n".join(filter(None, asked))), ("assistant", row[OUTPUT])])
            for row in named_cells(frame, self.places)
            for asked in [(row[INSTRUCTION], row.get(INPUT, ""))]
        ]


def has_lists(column: "pd.Series[Any]") -> bool:
    """Return whether the first cell that is not blank is a list."""
    first = next((cell for cell in column if not blank(cell)), None)
    return isinstance(first, list | np.ndarray)


def _conversation(cell: object, column: str, row: object) -> str:
    if blank(cell):
        return ""
    turns: list[Any] = list(cell) if isinstance(cell, list | np.ndarray) else [cell]
    for turn in turns:
        said = [turn.get(key) for key in ("role", "content")] if isinstance(turn, dict) else [None]
        if not all(isinstance(one, str) for one in said):
            raise BadInput(
                f"data.template 'chat': column {column!r}, row {row}: wanted a list of objects "
                f'{{"role": text, "content": text}}, got {quote(shown(turn, 80))} '
                "in it"
            )
    return _kept([(turn["role"], turn["content"]) for turn in turns])


def _kept(turns: Sequence[tuple[str, str]]) -> str:
    if not any(content.strip() for _, content in turns):
        return ""
    told = [{"role": role, "content": content} for role, content in turns]
    return json.dumps(told, ensure_ascii=False)


# With a tokenizer


def plain_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> list[list[int]]:
    """Return texts as token ids, within the tokenizer's special tokens, cut to ``max_length``."""
    return _ids(tokenizer, texts, max_length, special=True)


def _ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, *, special: bool
) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(
        list(texts),
        add_special_tokens=special,
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,  # twice as fast where nobody asks
        return_token_type_ids=False,
    )["input_ids"]
    return ids


def rendered(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[str]) -> list[str]:
    """Return conversations as texts: by the tokenizer's chat template, or "role: content" lines.

    Raises:
        BadInput: the template refuses one, as many do where roles do not take turns.
    """
    turns = [json.loads(conversation) for conversation in conversations]
    if not tokenizer.chat_template:
        return ["\n".join(f"{one['role']}: {one['content']}" for one in row) for row in turns]
    what = "data.template 'chat': the tokenizer's chat template refuses a conversation"
    with reading(what, private=True):
        return [str(tokenizer.apply_chat_template(row, tokenize=False)) for row in turns]


def chat_ids(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[str], max_length: int
) -> list[list[int]]:
    """Return conversations as token ids, cut to ``max_length``.

    They are those of transformers' ``apply_chat_template``, within the special tokens that the
    tokenizer puts around every text where the template does not: attacks count on these.
    """
    texts = rendered(tokenizer, conversations)
    if not tokenizer.chat_template:
        return plain_ids(tokenizer, texts, max_length)
    before, after = map(list, around(tokenizer))
    inner = _ids(tokenizer, texts, max_length, special=False)
    return [_within(ids, before, after, max_length) for ids in inner]


def _within(ids: list[int], before: list[int], after: list[int], most: int) -> list[int]:
    if ids[: len(before)] == before:
        ids = ids[len(before) :]
    if after and ids[-len(after) :] == after:
        ids = ids[: -len(after)]
    return [*before, *ids[: most - len(before) - len(after)], *after]


def chat_note(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what a reader must know of the texts; "" where they are the tokenizer's own."""
    if tokenizer.chat_template:
        return ""
    return "The tokenizer has no chat template: conversations are lines of `role: content`."
