"""Beam search for texts of the tokens in a bag: from each word that may begin one, a few at once.

Source: Gupta et al., FILM, NeurIPS 2022, arXiv:2205.08514: beams over the bag, no two tokens twice
        in a row, beginnings in upper case.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attacks.film.language import Language
from fedsim.types import Tokens

ENDS = (".", "!", "?")  # of a text's last token
TIMES = 2  # that a token may be in a text
NEVER = -torch.inf


@dataclass
class Beams:
    """One search.

    Attributes:
        language: says what comes next.
        bag: ascending token ids.
        width: texts that go on, of each beginning.
        longest: tokens of a text, special ones left out.
        kept: texts of each beginning that come out.
    """

    language: Language
    bag: Tokens
    width: int
    longest: int
    kept: int
    _found: dict[int, dict[int, tuple[float, Tokens]]] = field(default_factory=dict)

    def texts(self, most: int) -> list[Tokens]:
        """Return the likeliest texts of the ``most`` likeliest beginnings, special tokens aside.

        Each text that goes on is also taken as it would end, so that there are some of each length.
        """
        starts, enders = self._starts(most), self._enders()
        columns = torch.tensor([token for token in self.bag if token not in enders])
        ids = torch.tensor(starts)[:, None]  # (N, T)
        sums, group = torch.zeros(len(starts)), torch.arange(len(starts))
        front = torch.tensor([self.language.model.prefix] * len(starts), dtype=torch.int64)
        chances, known = self.language.after(torch.cat([front.view(len(starts), -1), ids], dim=1))
        for length in range(2, self.longest + 1):
            self._note(ids, sums, group, chances[:, enders], enders)
            if length == self.longest or not len(columns):
                break
            going = sums[:, None] + self._allowed(chances[:, columns], ids, columns)  # (N, K)
            parent, column, sums = self._best(going, group)
            if not len(parent):
                break
            ids = torch.cat([ids[parent], columns[column][:, None]], dim=1)
            group = group[parent]
            chances, known = self.language.after(ids[:, -1:], chosen(known, parent))
        best = [sorted(some.values(), reverse=True)[: self.kept] for some in self._found.values()]
        return list(dict.fromkeys(text for some in best for _, text in some))

    def _best(self, going: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows, columns and sums of each group's ``width`` best ways to go on."""
        parts = []
        for number in group.unique().tolist():
            rows = (group == number).nonzero().flatten()
            flat = going[rows].flatten()
            top = flat.topk(min(self.width, int((flat > NEVER).sum())))
            width = going.shape[1]
            parts.append((rows[top.indices // width], top.indices % width, top.values))
        parent, column, sums = (torch.cat(some) for some in zip(*parts, strict=True))
        return parent, column, sums

    def _allowed(self, chances: Tensor, ids: Tensor, columns: Tensor) -> Tensor:
        """Return ``chances`` (N, K), never of what followed the last token, or is there twice."""
        chances = chances.clone()
        chances[(ids[:, :, None] == columns).sum(dim=1) >= TIMES] = NEVER
        before = ids[:, :-1] == ids[:, -1:]  # (N, T - 1)
        rows, places = before.nonzero().unbind(1)
        following = ids[rows, places + 1]
        column = torch.searchsorted(columns, following).clamp_max(len(columns) - 1)
        same = columns[column] == following
        chances[rows[same], column[same]] = NEVER
        return chances

    def _note(
        self, ids: Tensor, sums: Tensor, group: Tensor, chances: Tensor, enders: list[int]
    ) -> None:
        """Note the best of texts (N, T) with the likeliest of the ``enders`` after it, by group."""
        last, column = chances.max(dim=1)
        for row in range(len(ids)):
            text = (*ids[row].tolist(), enders[int(column[row])])
            score = float(sums[row] + last[row]) / (len(text) - 1)
            there = self._found.setdefault(int(group[row]), {})
            there[len(text)] = max(there.get(len(text), (NEVER, ())), (score, text))

    def _enders(self) -> list[int]:
        """Return the tokens that end a text: marks alone.

        Those of the bag, if any: a text's last token is never read, so none need be there.
        """
        encode = self.language.model.tokenizer
        ways = [f"a{space}{mark}" for mark in ENDS for space in ("", " ")]
        rows: Any = encode(ways, add_special_tokens=False)["input_ids"]
        marks = list(dict.fromkeys(row[-1] for row in rows if self._written(row[-1]) in ENDS))
        return [mark for mark in marks if mark in self.bag] or marks or [self.bag[-1]]

    def _starts(self, most: int) -> Tokens:
        """Return the tokens of the bag that may begin a text: the likeliest, upper case alone.

        Where nothing stands before a text, they are those that the bag goes on from best.
        """
        capital = [token for token in self.bag if self._written(token)[:1].isupper()]
        some = capital or list(self.bag)
        if len(some) <= most:
            return tuple(some)
        prefix = self.language.model.prefix
        if prefix:
            chances = self.language.after(torch.tensor([prefix]))[0][0, some]
        else:
            following = self.language.after(torch.tensor(some)[:, None])[0]
            chances = following[:, list(self.bag)].amax(dim=1)
        return tuple(some[place] for place in chances.topk(most).indices.sort().values.tolist())

    def _written(self, token: int) -> str:
        return str(self.language.model.tokenizer.decode([token])).strip()


def chosen(known: Any, rows: Tensor) -> Any:
    """Return keys and values of ``rows`` of those that are ``known``: a row may come twice."""
    known.reorder_cache(rows)
    return known


def bodies(texts: Sequence[Tokens], prefix: Tokens, suffix: Tokens) -> list[Tokens]:
    """Return ``texts`` with the special tokens around them."""
    return [(*prefix, *text, *suffix) for text in texts]
