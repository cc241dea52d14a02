"""Which texts together are the batch, and their mending: words moved, put in, taken out.

Source: Gupta et al., FILM, NeurIPS 2022, arXiv:2205.08514 (phrases and words reordered, words put
        in); the score is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.film.beams import bodies
from attacks.film.language import Cost, Language
from attacks.matching.reorder import MOVES, moved
from fedsim.types import Tokens


@dataclass
class Mending:
    """Chooses and mends texts by one score, the lower the better: the sum of

    - the distance of their last norm's gradient to the observed one, over the latter's norm,
    - the share of the bag that is in none of them,
    - ``weight`` times their mean nats a token.
    """

    language: Language
    bag: Tokens
    weight: float
    scored: int = 0  # texts that were run
    _place: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._place = {token: place for place, token in enumerate(self.bag)}

    def chosen(self, texts: Sequence[Tokens], size: int) -> list[Tokens]:
        """Return the ``size`` texts that go best together: one by one, then each held up again."""
        cost, there = self._run(texts)
        rows: list[int] = []
        for _ in range(min(size, len(texts))):
            rest = [row for row in range(len(texts)) if row not in rows]
            rows.append(rest[int(self._scores(cost, there, rows, rest).argmin())])
        for place in range(len(rows)):
            others = rows[:place] + rows[place + 1 :]
            rest = [row for row in range(len(texts)) if row not in others]
            rows[place] = rest[int(self._scores(cost, there, others, rest).argmin())]
        return [texts[row] for row in rows]

    def mended(
        self, texts: Sequence[Tokens], passes: int, tries: int, generator: torch.Generator
    ) -> tuple[list[Tokens], float]:
        """Return the texts, each the best of ``tries`` variants, ``passes`` times; their score."""
        texts = list(texts)
        cost, there = self._run(texts)
        for place in [*range(len(texts))] * (passes if tries else 0):
            drawn = [self._variant(texts, place, number, generator) for number in range(tries)]
            some = [text for text in dict.fromkeys(drawn) if text != texts[place]]
            more, held = self._run(some)
            every, holds = cost.and_(more), torch.cat([there, held])
            others = [at for at in range(len(texts)) if at != place]
            each = [place, *range(len(texts), len(holds))]  # as it is where none is better
            best = each[int(self._scores(every, holds, others, each).argmin())]
            texts[place] = [*texts, *some][best]
            kept = torch.tensor([best if at == place else at for at in range(len(texts))])
            cost, there = every.take(kept), holds[kept]
        others = list(range(len(texts) - 1))
        return texts, float(self._scores(cost, there, others, [len(texts) - 1])[0])

    def _run(self, texts: Sequence[Tokens]) -> tuple[Cost, Tensor]:
        """Return what texts cost, and which of the bag each holds: (N, K)."""
        self.scored += len(texts)
        there = torch.zeros(len(texts), len(self.bag), dtype=torch.bool)
        for row, text in enumerate(texts):
            there[row, [self._place[token] for token in text if token in self._place]] = True
        model = self.language.model
        return self.language.cost(bodies(texts, model.prefix, model.suffix)), there

    def _scores(self, cost: Cost, there: Tensor, rows: list[int], one: Sequence[int]) -> Tensor:
        """Return the score of the texts ``rows`` with each of ``one`` beside them: (M,)."""
        each = torch.tensor(list(one))
        predicted = (cost.predicted[rows].sum() + cost.predicted[each]).clamp_min(1)  # (M,)
        score = self.weight * (cost.nats[rows].sum() + cost.nats[each]) / predicted
        score = score + 1 - (there[rows].any(dim=0) | there[each]).float().mean(dim=1)
        observed = self.language.observed
        if observed is not None and observed.any():
            pulls = (cost.pulls[rows].sum(dim=0) + cost.pulls[each]) / predicted[:, None]
            score = score + (pulls - observed).norm(dim=1) / observed.norm()
        return score

    def _variant(
        self, texts: Sequence[Tokens], place: int, number: int, generator: torch.Generator
    ) -> Tokens:
        """Return text ``place`` with words moved, or one put in, changed or left out, in turns."""
        text, kind = list(texts[place]), number % (MOVES + 3)
        if kind < MOVES and len(text) > 1:
            return tuple(moved(text, kind, generator))
        missing = sorted(set(self.bag) - {token for one in texts for token in one})
        pool = missing or list(self.bag)
        word, at = (
            int(torch.randint(size, (1,), generator=generator)) for size in (len(pool), len(text))
        )
        if kind == MOVES:
            text.insert(at, pool[word])
        elif kind == MOVES + 1 or len(text) < 2:
            text[at] = pool[word]
        else:
            del text[at]
        return tuple(text)
