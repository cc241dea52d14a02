"""Which tokens a next-token loss predicts, and how often, by the gradient of the head.

With cross-entropy over N predicted tokens, dL/dlogits sums to N p - c, for the mean p of what the
model says at each place and the counts c. What stands in the update is a map of that mean, p - c/N:

- the gradient of the head's bias is it;
- that of the last norm's bias is W^T of it: D equations for the rows of W that stand out;
- that of the head's weight is the mean of (p - y) h^T, so its product with a direction m is it
  where m h = 1 for every state h. m is what fits that best, by the mean and the second moment of
  states: of the batch's own, which rows of tokens that are not there tell (p is linear in W h,
  about, of weights that were never trained), or else of texts that the model says itself.

Source: Zhao et al., "iDLG", arXiv:2001.02610 (the negative entries are labels); Geiping et al.,
        breaching (counts from the bias); the norm's bias and m are ours.
"""

from dataclasses import dataclass

import torch
from scipy.optimize import nnls
from torch import Tensor

from attacks.reads.gradient import gradient_of
from attacks.reads.rows import is_tied
from attacks.reads.spoken import Spoken
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.types import Tokens

WHOLE = 0.25  # how far a count may be from a whole number
KEPT = 0.95  # of the width: unknowns at most that the norm's bias is solved for
STANDS = 6.0  # deviations of the logarithm of a row's size over p, from which on it stands out
EDGE = 1e-3  # of all that texts' states have, that a direction must have
LARGEST = 4096  # predicted tokens that are looked for where no lengths are granted
TOP = 2048  # tokens that tell how many are predicted
BLOCK = 256  # numbers tried at once
ROUGH = 0.2  # of a token, from which on no number fits
SMALL = 0.05  # of the largest share, below which one may be nothing
SLACK = 0.02  # of a token, that a number may fit worse than the best and be it


@dataclass(frozen=True)
class Targets:
    """The predicted tokens.

    Attributes:
        tokens: ascending, each as often as it is there.
        predicted: N, as granted or as the shares have it.
        counted: all counts came out whole, and sum to N.
        way: by what they were read: 0 the head's bias, 1 the norm's, 2 the head's weight.
    """

    tokens: Tokens
    predicted: int
    counted: bool
    way: int


@torch.no_grad()
def read_targets(observation: Observation, spoken: Spoken, predicted: int | None) -> Targets:
    """Return which tokens are predicted, and how often: by the first way that counts whole numbers.

    Args:
        observation: of a causal-lm update.
        spoken: what the model says of texts of its own.
        predicted: N, where it is known.

    Raises:
        UnsupportedObservation: neither the head nor the last norm trains.
    """
    ways = _ways(observation, spoken)
    if not ways:
        raise UnsupportedObservation(
            "labels needs the gradient of the head, or of the last norm's bias, but the update "
            "has neither"
        )
    told = [_counted(way, shares, sure, predicted) for way, shares, sure in ways]
    return next((one for one in told if one.counted), told[0])


def _ways(observation: Observation, spoken: Spoken) -> list[tuple[int, Tensor, Tensor]]:
    """Return each way that there is: its number, c/N (V,), and which are there for sure (V,)."""
    norm, head = observation.model.ending()
    said, none = spoken.chances, torch.zeros_like(spoken.chances, dtype=torch.bool)
    tensors, ways = observation.update.tensors, list[tuple[int, Tensor, Tensor]]()
    if f"{head}.bias" in tensors:
        slope = _double(observation, f"{head}.bias")
        ways.append((0, said - slope, slope < 0))
    weight = _head_weight(observation, head)
    rows = None if weight is None else _double(observation, weight)
    if norm is not None and f"{norm}.bias" in tensors and rows is not None:
        slope = _double(observation, f"{norm}.bias")
        ways.append((1, _by_norm(slope, rows, spoken), none))
    if rows is not None:
        ways.append((2, _by_weight(rows, spoken), none))
    return ways


def _double(observation: Observation, name: str) -> Tensor:
    return gradient_of(observation, name).cpu().double()


def _head_weight(observation: Observation, head: str) -> str | None:
    """Return the name of the head's weight in the update; a tied one is the embeddings'."""
    name = f"{head}.weight"
    if is_tied(observation):
        module = observation.model.module
        table = module.get_input_embeddings().weight
        name = next(name for name, p in module.named_parameters() if p is table)
    return name if name in observation.update.tensors else None


def _by_norm(slope: Tensor, rows: Tensor, spoken: Spoken) -> Tensor:
    """Return c/N (V,) from the gradient of the last norm's bias (D,), for rows that stand out."""
    sizes = rows.norm(dim=1)
    open_ = _stands_out(rows, spoken).nonzero().flatten()
    most = int(KEPT * len(slope))
    if len(open_) > most:
        open_ = open_[sizes[open_].topk(most).indices]
    shares = torch.zeros_like(spoken.chances)
    if not len(open_):
        return shares
    wanted = spoken.head.T @ spoken.chances - slope  # (D,) = W^T c / N
    solved, _ = nnls(spoken.head[open_].T.numpy(), wanted.numpy(), maxiter=30 * len(slope))
    shares[open_] = torch.from_numpy(solved)
    return shares


def _by_weight(rows: Tensor, spoken: Spoken) -> Tensor:
    """Return c/N (V,) from the gradient of the head's weight (V, D), as evenly as it comes."""
    quiet = ~_stands_out(rows, spoken)
    own = _moments(rows, spoken, quiet)
    found = [
        spoken.chances - rows @ _direction(*moments)
        for moments in (own, (spoken.mean, spoken.second, EDGE * spoken.second.trace()))
        if moments is not None
    ]
    return min(found, key=_unevenness)


def _stands_out(rows: Tensor, spoken: Spoken) -> Tensor:
    """Return which rows (V,) are larger, over their tokens' chances, than is usual."""
    sizes: Tensor = (rows.norm(dim=1) / spoken.chances).clamp_min(1e-30).log()
    middle = sizes.median()
    return sizes > middle + STANDS * 1.4826 * (sizes - middle).abs().median()


def _moments(rows: Tensor, spoken: Spoken, quiet: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the mean and second moment of the batch's states, and what noise the latter has.

    A quiet row over p is mean h + E[h h^T] (w - mean w), about. None where too few rows are quiet.
    """
    count, width = int(quiet.sum()), rows.shape[1]
    if count < 2 * width:
        return None
    flat = rows[quiet] / spoken.chances[quiet, None]
    mean = flat.mean(dim=0)
    centred = spoken.head[quiet] - spoken.head[quiet].mean(dim=0)
    second = torch.linalg.lstsq(centred, flat - mean).solution  # (D, D)
    rest = (flat - mean - centred @ second).square().sum() / (count - width) / width
    noise = 2 * (width * rest / (centred.square().mean() * count)).sqrt()  # its largest direction
    return mean, (second + second.T) / 2, 2 * noise


def _direction(mean: Tensor, second: Tensor, edge: Tensor) -> Tensor:
    """Return the m that makes E (m h - 1)^2 least, by directions of states above ``edge``."""
    values, vectors = torch.linalg.eigh(second)
    kept = values > torch.minimum(edge, values[-1] / 2)
    strong: Tensor = vectors[:, kept]
    found: Tensor = strong @ ((strong.T @ mean) / values[kept])
    return found


def _unevenness(shares: Tensor) -> float:
    """Return how far from whole the counts are, at the number of tokens that fits best."""
    return _predicted(shares)[1]


def _predicted(shares: Tensor) -> tuple[int, float]:
    """Return the N at which counts N c/N come out most whole and sum to N, and how far they do not.

    Multiples of it do about as well, so of those that are as good as any but for ``SLACK`` it is
    the first that a multiple is the best of.
    """
    some = shares.topk(min(TOP, len(shares))).values
    some = some[some > WHOLE / LARGEST]
    numbers = torch.arange(1, LARGEST + 1, dtype=torch.float64)
    off = torch.full_like(numbers, torch.inf)
    for part in numbers.split(BLOCK):
        counts = part[:, None] * some
        whole = counts.round()
        there = whole > 0
        apart = ((counts - whole).abs() * there).sum(dim=1) / there.sum(dim=1).clamp_min(1)
        off[part.long() - 1] = apart + (whole.sum(dim=1) - part).abs() / part
    best = int(off.argmin()) + 1
    parts = (best // times for times in range(best, 1, -1) if best % times == 0)
    first = next((n for n in parts if off[n - 1] <= off[best - 1] + SLACK), best)
    return first, float(off[first - 1])


def _number(shares: Tensor) -> int:
    """Return N; where no number fits, by the usual share: most tokens are there once."""
    number, off = _predicted(shares)
    if off < ROUGH:
        return number
    usual = float(shares[shares > SMALL * shares.max()].median())
    return max(1, min(LARGEST, round(1 / usual))) if usual > 0 else 1


def _counted(way: int, shares: Tensor, sure: Tensor, predicted: int | None) -> Targets:
    """Return the targets of shares c/N (V,)."""
    number = _number(shares) if predicted is None else predicted
    counts = number * shares
    whole = counts.round().clamp_min(0)
    clear = bool(((counts - whole).abs() < WHOLE).all()) and int(whole.sum()) == number
    whole = torch.maximum(whole, sure.double()).long()
    tokens = torch.arange(len(whole)).repeat_interleave(whole)
    return Targets(tuple(tokens.tolist()), number, clear, way)
