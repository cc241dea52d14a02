"""Which rows of the word embeddings an update moved: those of the tokens that were read.

Untied, no other row has a gradient. What stands between is rounding, what decay leaves, or noise,
whose rows have norms alike. A tied head moves every row: there the gradient that comes from it
lies in the span of the states that the head read, which almost all rows show, as almost all tokens
are never read; a row out of that span was.

Source: Melis et al., "Exploiting Unintended Feature Leakage in Collaborative Learning", IEEE S&P
        2019, arXiv:1805.04049 (untied, exact zeros); thresholds and tied heads are ours.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import gammainccinv, gammaincinv
from torch import Tensor

from attacks.reads.decay import shown_decay
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation
from fedsim.training import TrainingSettings

FALSE = 0.01  # rows of noise that may pass in an update, on average
QUIET = 0.1  # of all rows: that many at the least are nobody's, and tell what noise there is
ULP = 2.0**-23  # of a float32 weight: what a step rounds away is half of it at most
STEP = 0.05  # of the learning rate: AdamW moves a row further, and what decay leaves is 0.003
BEYOND = 8.0  # deviations from the usual row of a tied head's; of random rows the most is 4
SPAN = 0.9  # of the width: the directions at most that a tied head's rows are held against
APART = 4.0  # times the usual rest, beyond which a row is none of those that tell the span
ROUNDING = 1e-4  # of a row: what is less of it out of the span is rounding
TIGHT = 0.1  # of a logarithm: rows are never more alike
SAMPLE = 4096  # rows that tell it, evenly spread
MOST = 1e6  # times the floor: a row of exact zeros is beyond any
DEAD = 1e-6  # of the largest row's norm: below it there is rounding alone


@dataclass(frozen=True)
class MovedRows:
    """The rows that moved.

    Attributes:
        tokens: ascending.
        rows: (V, D) what moved them, decay taken off, float32.
        tied: the head moves every row, so they are those that stand out.
        floor: the norm above which a row is taken to have moved; of a tied head, deviations.
        clear: how many times the floor the least of them is.
    """

    tokens: tuple[int, ...]
    rows: Tensor
    tied: bool
    floor: float
    clear: float


def embedding_of(observation: Observation) -> str:
    """Return the name of the word embeddings' weight, which is in the update.

    Raises:
        UnsupportedObservation: it is not: they are frozen.
    """
    module = observation.model.module
    table = module.get_input_embeddings().weight
    name = next((name for name, p in module.named_parameters() if p is table), None)
    if name is None or name not in observation.update.tensors:
        raise UnsupportedObservation(
            "the word embeddings must train, so that their rows tell the tokens, but the update "
            f"has no {name or 'word embeddings'}"
        )
    return name


def is_tied(observation: Observation) -> bool:
    """Return whether a head shares the word embeddings."""
    module = observation.model.module
    head = module.get_output_embeddings()
    return head is not None and head.weight is module.get_input_embeddings().weight


def moved_rows(observation: Observation) -> MovedRows:
    """Return the rows of the word embeddings that tokens of the batch moved.

    Raises:
        UnsupportedObservation: they are frozen.
    """
    name = embedding_of(observation)
    sent = observation.broadcast.parameters[name].float()
    rows = observation.update.tensors[name].float() - shown_decay(observation) * sent
    if is_tied(observation):
        return _tied(observation, rows)
    norms = rows.norm(dim=1)
    floor = max(_noise(norms, rows.shape[1]), _least(observation, rows, sent))
    moved = norms > floor
    return _found(moved, norms, rows, floor, tied=False)


def _found(moved: Tensor, sizes: Tensor, rows: Tensor, floor: float, *, tied: bool) -> MovedRows:
    tokens = tuple(moved.nonzero().flatten().tolist())
    least = float(sizes[moved].min()) if tokens else 0.0
    return MovedRows(tokens, rows, tied, floor, min(least / floor, MOST) if floor else MOST)


def _noise(norms: Tensor, width: int) -> float:
    """Return what no row's norm is above by noise: 0 where as many as ``QUIET`` have none.

    The norm of D normal numbers follows a chi distribution; the quietest rows say at what scale.
    """
    quiet = float(norms.kthvalue(max(1, round(QUIET * len(norms)))).values)
    if not quiet:
        return 0.0
    loud = gammainccinv(width / 2, FALSE / len(norms)) / gammaincinv(width / 2, QUIET)
    return quiet * math.sqrt(float(loud))


def _least(observation: Observation, rows: Tensor, sent: Tensor) -> float:
    """Return what a row's norm is that nothing but rounding and decay moved, at most.

    Of AdamW's steps a share of the least that it moves one.
    """
    if observation.update.kind == "gradient":
        return 0.0
    config = observation.broadcast.config
    training = TrainingSettings.from_config(config)
    steps = training.steps(observation.update.num_examples)
    rounding = ULP * math.sqrt(steps) * float(sent.norm(dim=1).max())
    if training.optimizer != "adamw" or "learning_rate" not in config:
        return rounding
    return max(rounding, STEP * training.learning_rate * math.sqrt(rows.shape[1]))


def _tied(observation: Observation, rows: Tensor) -> MovedRows:
    """Return the rows of a tied head that stand out of the others, by ``BEYOND`` deviations."""
    training = TrainingSettings.from_config(observation.broadcast.config)
    adam = observation.update.kind == "delta" and training.optimizer == "adamw"
    norms = rows.norm(dim=1)
    live = norms > DEAD * norms.max()  # what is below is rounding
    if int(live.sum()) < rows.shape[1]:  # too few rows to say what is usual
        return _found(torch.zeros_like(live), norms, rows, 0.0, tied=True)
    sizes = torch.full_like(norms, -math.inf)
    sizes[live] = _against(rows[live]) if adam else _beyond(rows[live])
    least = -math.inf if adam else math.log(ROUNDING)
    middle = sizes[live].median()
    spread = 1.4826 * (sizes[live] - middle).abs().median()  # a normal's standard deviation
    floor = max(float(middle + BEYOND * spread), least)
    moved = sizes > floor
    deviations = BEYOND * (1 + (sizes - floor) / spread.clamp_min(TIGHT))
    return _found(moved, deviations, rows, BEYOND, tied=True)


def _against(rows: Tensor) -> Tensor:
    """Return how far each row's signs are against the usual ones: (V,) in [-1, 1].

    Adam's steps keep little but signs.
    """
    usual = rows.median(dim=0).values.sign()
    return -(rows.sign() * usual).mean(dim=1)


def _beyond(rows: Tensor) -> Tensor:
    """Return the logarithm of the share of each row that is out of the span of the others: (V,).

    For its directions rows count alike, whatever their size. As those that are out of it must not
    be among them, it grows from one direction on, and each time they are left out.
    """
    norms = rows.norm(dim=1, keepdim=True)
    some = torch.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).long()
    unit = (rows[some] / norms[some]).double()
    most, size, kept = int(SPAN * rows.shape[1]), 1, torch.ones(len(some), dtype=torch.bool)
    while True:
        basis = torch.linalg.eigh(unit[kept].T @ unit[kept]).eigenvectors[:, -size:]  # ascending
        rest = (unit - (unit @ basis) @ basis.T).norm(dim=1)
        kept = rest <= APART * rest.median()
        if size == most:
            break
        size = min(2 * size, most)
    basis = basis.float()
    parts = [torch.nn.functional.normalize(part, dim=1) for part in rows.split(SAMPLE)]
    rest = torch.cat([(part - (part @ basis) @ basis.T).norm(dim=1) for part in parts])
    return rest.clamp_min(DEAD).log()
