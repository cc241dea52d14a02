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
    _found: dict[int, list[tuple[float, Tokens]]] = field(default_factory=dict)

    def texts(self, most: int) -> list[Tokens]:
        """Return the likeliest texts of the ``most`` likeliest beginnings, no special token in it."""
        starts = self._starts(most)
        columns = torch.tensor(self.bag)
        enders = torch.tensor([self._written(token).endswith(ENDS) for token in self.bag])
        ids = torch.tensor(starts)[:, None]  # (N, T)
        sums = torch.zeros(len(starts))
        group = torch.arange(len(starts))
        front = torch.tensor([self.language.model.prefix] * len(starts), dtype=torch.int64)
        chances, known = self.language.after(torch.cat([front.view(len(starts), -1), ids], dim=1))
        for _ in range(self.longest - 1):
            going = sums[:, None] + self._allowed(chances[:, columns], ids, columns)  # (N, K)
            parent, column, sums = self._best(going, group)
            ids = torch.cat([ids[parent], columns[column][:, None]], dim=1)
            group = group[parent]
            over = enders[column] & (ids.shape[1] > 2)
            self._note(ids, sums, group, over)
            alive = (~over).nonzero().flatten()
            if not len(alive):
                break
            ids, sums, group, parent = ids[alive], sums[alive], group[alive], parent[alive]
            known = chosen(known, parent)
            chances, known = self.language.after(ids[:, -1:], known)
        else:
            self._note(ids, sums, group, torch.ones(len(ids), dtype=torch.bool))
        best = [sorted(some, reverse=True)[: self.kept] for some in self._found.values()]
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
        """Return ``chances`` (N, K), never of a token that followed the last one before."""
        chances = chances.clone()
        before = ids[:, :-1] == ids[:, -1:]  # (N, T - 1)
        rows, places = before.nonzero().unbind(1)
        chances[rows, torch.searchsorted(columns, ids[rows, places + 1])] = NEVER
        return chances

    def _note(self, ids: Tensor, sums: Tensor, group: Tensor, over: Tensor) -> None:
        for row in over.nonzero().flatten().tolist():
            text = tuple(ids[row].tolist())
            score = float(sums[row]) / max(1, len(text) - 1)
            self._found.setdefault(int(group[row]), []).append((score, text))

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
