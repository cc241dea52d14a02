"""DAGER's two algorithms for GPT-2 as the paper has them: what the fast attack is measured against.

Source:      Petrov, Dimitrov, Baader, Müller, Vechev, "DAGER: Exact Gradient Inversion for Large
             Language Models", NeurIPS 2024, arXiv:2405.15586v2, algorithms 1 and 2, eq. 2, with its
             thresholds 1e-5 and 1e-3 and its chunks of 1000 candidates. Written from the paper; no
             line is the authors'.
As there:    float32; a span's D x D projector; at every position the whole vocabulary is embedded;
             every extension runs through block 0 over its full prefix and is kept when all of its
             positions are in the span; algorithm 1 stops at the first empty position.
Deviations:  all for the better. The rank is the largest gap of each layer's own spectrum (the
             paper: an absolute tolerance that depends on the gradient's scale, one rank for both
             layers, from ten singular value decompositions); q, k and v together, which see
             position 0; length-1 prefixes are filtered by layer 1; no best-effort beams, which cost
             further passes; none of the reference code's metrics and device transfers.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsim.messages import Observation
from fedsim.models import Trunk
from fedsim.types import Tokens

SPARE = 20  # the rank is at most D - SPARE (fig. 3)
CHUNK = 1000  # candidates run through block 0 at a time


@dataclass
class Progress:
    """What was done by when: of a search that a cap cut short, all there is."""

    sequences: list[Tokens] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    passing: list[int] = field(default_factory=list)  # tokens that pass algorithm 1, by position
    pairs: list[int] = field(default_factory=list)  # (prefix, token) pairs run, by position
    seconds_svd: float = 0.0
    seconds_tokens: float = 0.0  # algorithm 1
    seconds_search: float = 0.0  # algorithm 2
    least_rate: float = float("inf")  # seconds per token run in the fastest full chunk
    finished: bool = False

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.seconds_svd + self.seconds_tokens + self.seconds_search


@dataclass(frozen=True, kw_only=True)
class NaiveDager:
    """The paper's attack on a GPT-2 gradient.

    Attributes:
        tau1: how far from layer 0's span a token's input may be: the sine of the angle.
        tau2: the same for layer 1's.
        cap: seconds after which the search stops, unfinished.
    """

    tau1: float = 1e-5
    tau2: float = 1e-3
    cap: float = float("inf")

    @torch.no_grad()
    def run(self, seen: Observation) -> Progress:
        """Return the sentences found, and what finding them took."""
        done, started = Progress(), time.perf_counter()
        projectors = []
        for layer in (0, 1):
            (weight,) = seen.model.projections(layer)
            projector, rank = _projector(seen.update.tensors[weight.name].float())
            projectors.append(projector)
            done.ranks.append(rank)
        first, second = seen.model.trunks(seen.broadcast.parameters, 0, 1)
        done.seconds_svd = time.perf_counter() - started
        clock = time.perf_counter()
        tokens = self._token_sets(first, projectors[0], seen.model.vocabulary, seen.model.positions)
        done.passing = [len(ids) for ids in tokens]
        done.seconds_tokens = time.perf_counter() - clock
        self._search(second, projectors[1], tokens, done, started)
        return done

    def _token_sets(
        self, trunk: Trunk, projector: Tensor, vocabulary: int, positions: int
    ) -> list[Tensor]:
        """Algorithm 1: the tokens (K,) whose input is in layer 0's span, position by position."""
        found = []
        everything = torch.arange(vocabulary)[:, None]
        for position in range(positions):
            inputs, _ = trunk.inputs(everything, first=position)  # (V, 1, D)
            ids = (_distance(inputs[:, 0], projector) < self.tau1).nonzero().flatten()
            if not len(ids):
                break
            found.append(ids)
        return found

    def _search(
        self,
        trunk: Trunk,
        projector: Tensor,
        tokens: Sequence[Tensor],
        done: Progress,
        started: float,
    ) -> None:
        """Algorithm 2: extend prefixes by every token that passes, while layer 1 agrees."""
        clock = time.perf_counter()
        prefixes = torch.empty(1, 0, dtype=torch.int64)  # (S, i)
        for candidates in tokens:
            done.pairs.append(0)
            accepted = []
            extended = torch.zeros(len(prefixes), dtype=torch.bool)
            pairs = torch.cartesian_prod(torch.arange(len(prefixes)), candidates).view(-1, 2)
            for some in torch.split(pairs, CHUNK):
                if time.perf_counter() - started > self.cap:
                    done.seconds_search = time.perf_counter() - clock
                    return
                began = time.perf_counter()
                sequences = torch.cat([prefixes[some[:, 0]], some[:, 1:]], dim=1)  # (K, i + 1)
                inputs, _ = trunk.inputs(sequences)  # (K, i + 1, D)
                inside = (_distance(inputs, projector) < self.tau2).all(dim=1)
                accepted.append(sequences[inside])
                extended[some[inside, 0]] = True
                done.pairs[-1] += len(some)
                if len(some) == CHUNK:
                    rate = (time.perf_counter() - began) / sequences.numel()
                    done.least_rate = min(done.least_rate, rate)
            done.sequences += [tuple(one) for one in prefixes[~extended].tolist() if one]
            prefixes = torch.cat(accepted)
            if not len(prefixes):
                break
        done.sequences += [tuple(one) for one in prefixes.tolist()]
        done.seconds_search = time.perf_counter() - clock
        done.finished = True


def _projector(gradient: Tensor) -> tuple[Tensor, int]:
    """Return the projector (D, D) on the span of ``gradient`` (D, K), and its rank.

    The decomposition is taken in float64, for a gap that float32 would blur; the rest is float32.
    """
    left, values, _ = torch.linalg.svd(gradient.double(), full_matrices=False)
    most = len(gradient) - SPARE
    rank = int((values[:most] / values[1 : most + 1].clamp_min(1e-300)).argmax()) + 1
    basis = left[:, :rank].float()  # (D, rank)
    return basis @ basis.T, rank


def _distance(vectors: Tensor, projector: Tensor) -> Tensor:
    """Return the sine of the angle between ``vectors`` (..., D) and the span: (...). Eq. 2."""
    vectors = vectors / vectors.norm(dim=-1, keepdim=True)
    distance: Tensor = (vectors @ projector - vectors).norm(dim=-1)
    return distance
