"""True and reconstructed text in pieces, token by token: which of them was read, which was not."""

from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Any

from fedsim.types import Tokens


@dataclass(frozen=True)
class Piece:
    """Some characters of a text, and whether their tokens are in both texts, in order."""

    text: str
    matched: bool


def marked(tokenizer: Any, truth: Tokens, guess: Tokens) -> tuple[list[Piece], list[Piece]]:
    """Return both texts in pieces that put together are the texts, spaces as in the sentence."""
    if truth == guess:  # the usual case of an exact attack
        whole = [Piece(str(tokenizer.decode(list(truth))), True)] if truth else []
        return whole, whole
    left, right = _Text(tokenizer, truth), _Text(tokenizer, guess)
    blocks = SequenceMatcher(a=truth, b=guess, autojunk=False).get_opcodes()
    for kind, a0, a1, b0, b1 in blocks:
        left.add(a0, a1, kind == "equal")
        right.add(b0, b1, kind == "equal")
    return left.pieces, right.pieces


class _Text:
    """One text, cut where its tokens meet."""

    def __init__(self, tokenizer: Any, tokens: Tokens) -> None:
        self.pieces: list[Piece] = []
        self._tokenizer, self._tokens = tokenizer, tokens
        self._whole = str(tokenizer.decode(list(tokens)))

    def add(self, start: int, end: int, matched: bool) -> None:
        """Add the piece of ``tokens[start:end]``."""
        text = self._whole[self._reach(start) : self._reach(end)]
        if text:
            self.pieces.append(Piece(text, matched))

    def _reach(self, end: int) -> int:
        """Return how many characters of the whole the first ``end`` tokens make, no half ones."""
        if end == len(self._tokens):
            return len(self._whole)
        part = str(self._tokenizer.decode(list(self._tokens[:end])))
        pairs = zip(part, self._whole, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
