"""Read the sentences of an encoder's batch out of what its attention saw.

Source:      the setting of DAGER (arXiv:2405.15586v2, section 5.2: encoders); the search is ours.
Assumes:     the update of block 0's attention output map or MLP input map, nearly free of noise;
             fewer tokens in the batch than the width; a tokenizer that ends texts with a token.
Recovers:    every distinct sentence, exactly, with its length.
Deviations:  the paper draws combinations of tokens at random and tests each. Here one query's
             attention over the unknown sentence gives equations in weights of all candidates
             (attention.py), solved by Gauss-Newton steps under w >= 0: that few of many
             tokens are in a sentence makes the solution unique. [CLS], a query in all of them, may
             give a mixture: then a token of it is the next query, until a sentence is alone.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.dager.encoder.attention import Candidates, make_candidates, token_sets
from attacks.dager.encoder.heads import explains
from attacks.dager.encoder.nonnegative import nonnegative
from attacks.dager.encoder.ordering import read_in_order
from attacks.dager.encoder.witness import Witness
from attacks.dager.gates import Gates
from attacks.dager.inputs import input_span, shows
from attacks.dager.span import Span, length
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.models.spec import Place
from fedsim.types import Tokens

logger = logging.getLogger("fedsim.attacks")


def read_encoder(
    observation: Observation, gates: Gates, notes: Notes, generator: torch.Generator, tries: int
) -> tuple[Tokens, ...]:
    """Return the sentences of an encoder's batch, specials included.

    Args:
        observation: of an encoder's update.
        gates: the tokens of each position, and a later layer.
        notes: get numbers about the search.
        generator: breaks ties.
        tries: searches for one more sentence, at most.

    Raises:
        UnsupportedObservation: the update lacks what the search needs.
    """
    model = observation.model
    if gates.single.positions == 1:
        return read_in_order(model, gates, notes, generator, tries)
    if gates.opening is None:
        return ()
    contexts, middles = _spans(observation)
    known = [span for span in (contexts, middles) if span is not None]
    longest = gates.inner.span.rank + thresholds.LOOK  # as states differ from place to place
    sets = token_sets(gates.tokens.at, min(model.positions, longest))
    notes |= {"candidates": sum(map(len, sets)), "solves": 0, "best_effort": True, "alike": 0}
    full = all(span.saturated for span in known)
    notes["cut"] = full or notes["candidates"] > thresholds.CANDIDATES
    if notes["cut"] or len(sets) < thresholds.SHORTEST or model.prefix[0] not in sets[0]:
        return ()
    sets[0] = torch.tensor(model.prefix[:1])
    pool = make_candidates(gates.opening, sets, model.suffix[-1], contexts, middles, generator)
    search = SentenceSearch(
        pool=pool,
        surest=gates.near(pool.tokens, pool.positions).cpu().argsort(),
        witness=Witness(gates.inputs, gates.inner),
        examples=observation.update.num_examples,
        explains=lambda sentences: explains(observation, sentences),
        generator=generator,
        notes=notes,
    )
    # of three spans one may mistake noise for signal: the one between
    ranks = sorted(span.rank for span in (gates.inner.span, *known))
    found = tuple(search.run(ranks[len(ranks) // 2], tries))
    notes["alike"] = search.alike(gates)
    return found


def _spans(observation: Observation) -> tuple[Span | None, Span | None]:
    """Return the spans of block 0's contexts and of what its MLP reads: one of them at least."""
    model = observation.model
    if not model.prefix or not model.suffix:
        raise UnsupportedObservation(
            f"an encoder's texts must begin and end with special tokens, but {model!r} adds none"
        )
    contexts, middles = _span(observation, "context"), _span(observation, "middle")
    if contexts is None and middles is None:
        wanted = (*model.projections(0, "context"), *model.projections(0, "middle"))
        names = [projection.name for projection in wanted]
        raise UnsupportedObservation(
            f"an encoder's sentences need the update of at least one of {', '.join(names)}; "
            "the update has none of them"
        )
    return contexts, middles


def _span(observation: Observation, place: Place) -> Span | None:
    """Return the span of what block 0's weights read at ``place``, if the update shows one."""
    span = input_span(observation, 0, place) if shows(observation, 0, place) else None
    return span if span is not None and span.rank else None


@dataclass(kw_only=True)
class SentenceSearch:
    """Finds sentence after sentence in a pool of candidates.

    Attributes:
        pool: the candidates.
        surest: (N,) int64: candidates, those that block 0's span holds closest first.
        witness: a later layer, which bears sentences out.
        examples: how many the client says it had.
        explains: tells whether sentences account for all that a head was told.
        generator: breaks ties.
        notes: counts the solves; says whether the whole batch was found, or the search given up.
    """

    pool: Candidates
    surest: Tensor
    witness: Witness
    examples: int
    explains: Callable[[Sequence[Tokens]], bool]
    generator: torch.Generator
    notes: Notes

    def __post_init__(self) -> None:
        self._occupancy = self.pool.occupancy().to(self.pool.keys.device)
        self._tried = torch.zeros(len(self.pool.tokens), dtype=torch.bool)  # as a first query
        self._found: dict[Tokens, Tensor] = {}  # a sentence, and its candidates (T,)

    def run(self, total: int, tries: int) -> list[Tokens]:
        """Return the sentences found until ``total`` tokens are explained, or ``tries`` made."""
        last, patience = 0, thresholds.PATIENCE  # the solves after which the last one was found
        for turn in range(tries):
            left = self._left(total)
            effort = self.notes["solves"] * len(self.pool.tokens)
            tired = effort > thresholds.EFFORT or self.witness.tired
            if left < thresholds.SHORTEST or tired:
                break
            before = len(self._found)
            self._next(left, by_mixture=turn % 2 == 0)
            if len(self._found) > before:
                last = int(self.notes["solves"])
                whole = len(self._found) >= self.examples or self.explains(list(self._found))
                patience = thresholds.ENOUGH if whole else thresholds.PATIENCE
            if self.notes["solves"] - last > patience:
                break
            logger.info("%d sentences after %d solves", len(self._found), self.notes["solves"])
        self.notes["cut"] = self._left(total) >= thresholds.SHORTEST
        self.notes["witnessed"] = self.witness.read
        self.notes["best_effort"] = self.notes["cut"] or self.witness.gate.span.blurred
        return list(self._found)

    def alike(self, gates: Gates) -> int:
        """Return how many of the sentences found hold a token that is embedded as another is."""
        pool = self.pool
        vectors = gates.single.inputs(pool.tokens, pool.positions)
        vectors = (vectors / length(vectors)[:, None]).cpu()
        count = 0
        for rows in self._found.values():
            here = pool.positions[rows]
            others = (pool.positions == here[:, None]) & (pool.tokens != pool.tokens[rows][:, None])
            mine, theirs = others.nonzero().unbind(1)
            apart = (vectors[rows[mine]] - vectors[theirs]).norm(dim=1)
            count += bool((apart < thresholds.RESOLUTION).any())
        return count

    def _left(self, total: int) -> int:
        """Return how many of ``total`` tokens are not explained."""
        return total - sum(map(len, self._found))

    def _next(self, left: int, *, by_mixture: bool) -> None:
        """Look for one more sentence, where ``left`` tokens are not explained.

        A token of it as the query all but always gives it. To find one: if one sentence is left,
        it ends at ``left``; else [CLS], a query in all of them, sees a mixture of such tokens;
        where noise hides that, the pairs closest to block 0's span are the true ones.
        """
        everything = torch.ones(len(self.pool.tokens), dtype=torch.bool)
        fixed, token = [0], self._end(left)
        if token is None and not by_mixture:
            token = self._surest()
        if token is None:
            weights, _ = self._solve(fixed, self._others())
            token = None if self._check(weights) else self._likely(weights, fixed)
        while token is not None and len(fixed) <= thresholds.DEPTH:
            fixed.append(token)
            self._tried[token] = True
            weights, misfit = self._solve(fixed, everything)
            done = self._check(weights) or misfit > thresholds.MISFIT
            token = None if done else self._likely(weights, fixed)

    def _end(self, length: int) -> int | None:
        """Return the candidate that ends a sentence of ``length``, unless it was tried."""
        ends = self.pool.ends & (self.pool.positions == length - 1) & ~self._tried
        return int(ends.nonzero()) if ends.any() else None

    def _surest(self) -> int | None:
        """Return the untried candidate closest to block 0's span, of no sentence that was found."""
        free = ~self._tried & (self.pool.positions > 0)
        for rows in self._found.values():
            free[rows] = False
        left = self.surest[free[self.surest]]
        return int(left[0]) if len(left) else None

    def _others(self) -> Tensor:
        """Return candidates (N,) without half, drawn, of those of each sentence that was found.

        Without only one of them, the others and a false token nearly do what the sentence did.
        """
        allowed = torch.ones(len(self.pool.tokens), dtype=torch.bool)
        for rows in self._found.values():
            drawn = torch.rand(len(rows), generator=self.generator)
            allowed[rows[drawn < thresholds.LEFT_OUT]] = False
        allowed[0] = True
        return allowed

    def _likely(self, weights: Tensor, fixed: list[int]) -> int | None:
        """Draw an untried candidate by its weight, of no found sentence if there is any."""
        chances = weights.clamp(max=1.0) * ((weights > thresholds.SETTLED) & ~self._tried)
        for row in fixed:
            chances[self.pool.positions == self.pool.positions[row]] = 0
        fresh = chances.clone()
        for rows in self._found.values():
            fresh[rows] = 0
        chances = fresh if fresh.any() else chances
        if not chances.any():
            return None
        return int(torch.multinomial(chances**thresholds.SHARPNESS, 1, generator=self.generator))

    def _solve(self, fixed: list[int], allowed: Tensor) -> tuple[Tensor, float]:
        """Return weights (N,) at which the last of ``fixed`` sees what it may, and the misfit left.

        Args:
            fixed: candidates of weight 1; queries are among them.
            allowed: (N,) which candidates may have weight at all.
        """
        free, weights = self._start(fixed, allowed)
        support = torch.empty(0, dtype=torch.int64)
        self.notes["solves"] += 1
        before = self.pool.linearise(fixed[-1], weights)[0].norm()
        for _ in range(thresholds.STEPS):
            rest, slopes = self.pool.linearise(fixed[-1], weights)
            columns = torch.cat([slopes, self._occupancy.T], dim=1)  # (N, K + P)
            target = torch.cat([-rest, rest.new_ones(len(self._occupancy))])
            target -= columns[fixed].sum(dim=0)
            values, support = nonnegative(columns[free], target, support)
            values = values.cpu()
            settled = bool(((values - weights[free]).abs() < thresholds.SETTLED).all())
            weights[free] = values
            if settled:
                break
        after = self.pool.linearise(fixed[-1], weights)[0].norm()
        return weights, (after / before.clamp_min(1e-12)).item()

    def _start(self, fixed: list[int], allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Return which candidates are free (N,), and weights (N,) that know of nothing else."""
        positions, ends = self.pool.positions, self.pool.ends
        free = allowed.clone()
        for row in fixed:
            free &= positions != positions[row]
            free &= (
                (positions < positions[row])
                if ends[row]
                else ~(ends & (positions < positions[row]))
            )
        weights = free.float()
        totals = torch.zeros(len(self._occupancy)).index_add(0, positions, weights)
        weights = weights / totals[positions].clamp_min(1e-6)
        weights[fixed] = 1.0
        return free, weights

    def _check(self, weights: Tensor) -> bool:
        """Keep the sentence that ``weights`` (N,) amount to, if a later layer bears it out."""
        rows = []
        for place in range(len(self._occupancy)):
            here = (self.pool.positions == place).nonzero().flatten()
            if not len(here):
                return False
            rows.append(int(here[weights[here].argmax()]))
            if self.pool.ends[rows[-1]]:
                break
        else:
            return False
        whole = torch.tensor(rows)
        clear = bool((weights[rows] > thresholds.CLEAR).all())
        chosen = self.witness.settle(whole, self.pool, clear=clear)
        if chosen is None:
            return False
        sentence = tuple(self.pool.tokens[chosen].tolist())
        new = sentence not in self._found
        if new:
            self._found[sentence] = chosen
        return new
