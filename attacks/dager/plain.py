"""DAGER for decoders as the paper has it, without any speed: to read first, and to test against.

Source:      Petrov, Dimitrov, Baader, Müller, Vechev, "DAGER: Exact Gradient Inversion for Large
             Language Models", NeurIPS 2024, arXiv:2405.15586v2, algorithms 1 and 2, equation 2,
             with its thresholds. Written from the paper; no line is the authors'.
As there:    float32; a span's D x D projector; at every position the whole vocabulary is embedded;
             every extension runs through block 0 over its full prefix; algorithm 1 stops at the
             first empty position. As in the authors' code alone: all positions of an extension
             must be in the span, and an input is divided by its length (the paper's equation 2 is
             the distance itself).
Deviations:  all for the better. The rank is the largest gap of each layer's own spectrum (the
             paper: an absolute tolerance that depends on the gradient's scale, one rank for both
             layers, from ten singular value decompositions); q, k and v together, which see
             position 0; length-1 prefixes are filtered by layer 1; no best-effort beams, which cost
             further passes; none of the reference code's metrics and device transfers. Without
             learned positions copies of one token look like one copy and would go on for ever, so
             a prefix of copies is not extended by another (the authors' code looks for BOS).
             Every sequence found is returned, not the best B.

The paper counts layers from 1: its layer 1 reads f0 and its layer 2 reads f1 here as there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.messages import Observation
from fedsim.models import ModelAdapter, Trunk
from fedsim.types import Tokens

SPARE = 20  # Delta_b: the rank is at most D - SPARE (fig. 3)
CHUNK = 1000  # candidates run through block 0 at a time, as in the authors' code


@dataclass(frozen=True, kw_only=True)
class PlainDager:
    """The paper's attack on a decoder's gradient.

    Attributes:
        tau_1: how far from layer 1's span a token's input may be: the sine of the angle.
        tau_2: the same for layer 2's.
    """

    tau_1: float = 1e-5
    tau_2: float = 1e-3

    @torch.no_grad()
    def run(self, observation: Observation) -> list[Tokens]:
        """Return the sentences found."""
        model = observation.model
        R_1, R_2 = (projector(span_gradient(observation, layer))[0] for layer in (0, 1))
        f0, f1 = model.trunks(observation.broadcast.parameters, 0, 1)
        T = self.token_sets(model, f0, R_1)
        sentences: list[Tokens] = []
        for _ in self.grow(model.prefix, T, f1, R_2, sentences, places=has_places(f0)):
            pass
        return sentences

    def token_sets(self, model: ModelAdapter, f0: Trunk, R_1: Tensor) -> Iterator[Tensor]:
        """Algorithm 1: T_i, the tokens (K,) whose input is in layer 1's span, for each position i.

        It begins after what every text begins with, and ends at the first empty position.
        """
        V = torch.arange(model.vocabulary)
        for i in range(len(model.prefix), model.positions):
            z, _ = f0.inputs(V[:, None], first=i)  # (V, 1, D)
            T_i = V[distance(z[:, 0], R_1) < self.tau_1]
            if not len(T_i):
                return
            yield T_i

    def grow(
        self,
        start: Tokens,
        T: Iterable[Tensor],
        f1: Trunk,
        R_2: Tensor,
        sentences: list[Tokens],
        *,
        places: bool,
    ) -> Iterator[tuple[int, int, int]]:
        """Algorithm 2: extend prefixes by every token that passes, while layer 2 agrees.

        Args:
            start: what every text begins with.
            T: the tokens of each position.
            f1: block 0.
            R_2: the projector on layer 2's span.
            sentences: gets each prefix that nothing extends.
            places: whether f0 has learned positions.

        Yields:
            After each chunk of candidates: the place in ``T``, the candidates, their tokens in all.
        """
        S = torch.tensor([start], dtype=torch.int64)  # (1, i)
        for i, T_i in enumerate(T):
            extended = torch.zeros(len(S), dtype=torch.bool)
            S_i = []
            rows, tokens = torch.cartesian_prod(torch.arange(len(S)), T_i).view(-1, 2).unbind(1)
            for row, token in zip(
                torch.split(rows, CHUNK), torch.split(tokens, CHUNK), strict=True
            ):
                s = torch.cat([S[row], token[:, None]], dim=1)  # (K, i + 1)
                z, _ = f1.inputs(s)  # (K, i + 1, D)
                inside = (distance(z, R_2) < self.tau_2).all(dim=1)
                if s.shape[1] > 1 and not places:
                    inside &= (s != s[:, :1]).any(dim=1)
                S_i.append(s[inside])
                extended[row[inside]] = True
                yield i, len(s), s.numel()
            sentences += map(tuple, S[~extended].tolist())
            S = torch.cat(S_i)
            if not len(S):
                break
        sentences += map(tuple, S.tolist())
        sentences[:] = [s for s in sentences if len(s) > len(start)]


def has_places(f0: Trunk) -> bool:
    """Return whether a token's input depends on where it stands."""
    token = torch.zeros(1, 1, dtype=torch.int64)
    return not torch.equal(f0.inputs(token, first=0)[0], f0.inputs(token, first=1)[0])


def span_gradient(observation: Observation, layer: int) -> Tensor:
    """Return the gradient of q, k and v of ``layer`` side by side, float32: (D, K)."""
    gradients = []
    for weight in observation.model.projections(layer):
        gradient = observation.update.tensors[weight.name].float()
        gradients.append(gradient if weight.input_axis == 0 else gradient.T)
    return torch.cat(gradients, dim=1)


def projector(gradient: Tensor) -> tuple[Tensor, int]:
    """Return the projector (D, D) on the span of ``gradient`` (D, K), and its rank. Theorem 5.1.

    The decomposition is taken in float64, for a gap that float32 would blur; the rest is float32.
    """
    left, values, _ = torch.linalg.svd(gradient.double(), full_matrices=False)
    most = len(gradient) - SPARE
    rank = int((values[:most] / values[1 : most + 1].clamp_min(1e-300)).argmax()) + 1
    basis = left[:, :rank].float()  # (D, rank)
    return basis @ basis.T, rank


def distance(z: Tensor, R: Tensor) -> Tensor:
    """Return d(z): the sine of the angle between z (..., D) and the span of R (D, D). Eq. 2."""
    z = z / z.norm(dim=-1, keepdim=True)
    d: Tensor = (z @ R - z).norm(dim=-1)
    return d
