"""The clock that Adam writes into the embeddings: in which local step a token was, and where.

A row with a gradient in one local step alone moves by the same amount in every coordinate, whatever
the gradient: Adam divides by its size. The amount hangs on how many steps followed. A position's
row moves with the tokens that stood there, so signs that agree say where a token stood.

Source: ours, from Kingma & Ba, "Adam", ICLR 2015, arXiv:1412.6980, algorithm 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from attacks.reads.lengths import positions_of
from attacks.reads.rows import MovedRows
from fedsim.local import make_optimizer, make_scheduler
from fedsim.messages import Observation
from fedsim.training import TrainingSettings

NEAR = 0.02  # of a step's amount, that a coordinate may be off
MOST = 0.9  # of the coordinates must be as near
QUIET = 0.05  # of the largest row of the positions: below it nothing stood there
APART = 2.5 * NEAR  # two steps' amounts nearer than this are not told apart


@dataclass(frozen=True)
class Dated:
    """What is known of the tokens that one local step alone moved.

    Attributes:
        steps: how many local steps there were; 0: there is no clock.
        step: of each such token, from 1.
        place: and its position, from 0, where positions are learned.
    """

    steps: int = 0
    step: Mapping[int, int] = field(default_factory=dict)
    place: Mapping[int, int] = field(default_factory=dict)


def read_clock(observation: Observation, moved: MovedRows) -> Dated:
    """Return which local step, and place, each token was in, where a clock tells."""
    config = observation.broadcast.config
    training = TrainingSettings.from_config(config)
    examples = observation.update.num_examples
    adam = observation.update.kind == "delta" and training.optimizer == "adamw"
    if not adam or moved.tied or "learning_rate" not in config or training.proximal_mu:
        return Dated()
    steps = training.steps(examples)
    sizes = moved.rows[list(moved.tokens)].abs()  # (N, D)
    amounts = clock(training, steps)
    step = {
        token: int(at) + 1
        for token, at, sure in zip(moved.tokens, *_nearest(sizes, amounts), strict=True)
        if sure
    }
    return Dated(steps, step, _placed(observation, moved, step, training.mini_batch_size))


def clock(training: TrainingSettings, steps: int) -> Tensor:
    """Return how far a weight of 0 is moved by a gradient in step s alone, for each s: (K,)."""
    weights = torch.nn.Parameter(torch.zeros(steps))
    optimizer = make_optimizer(training, [weights])
    rate = make_scheduler(training, optimizer, steps)
    for step in range(steps):
        weights.grad = torch.zeros(steps)
        weights.grad[step] = 1.0
        optimizer.step()
        rate.step()
    return weights.detach().abs()


def _nearest(sizes: Tensor, amounts: Tensor) -> tuple[list[int], list[bool]]:
    """Return the step whose amount is nearest to the median of ``sizes`` (N, D), and if it is so.

    It is where most coordinates are as near, and no other step's amount could be meant.
    """
    if not len(sizes):
        return [], []
    at = (sizes.median(dim=1).values[:, None] - amounts).abs().argmin(dim=1)  # (N,)
    meant = amounts[at]
    near = ((sizes - meant[:, None]).abs() < NEAR * meant[:, None]).float().mean(dim=1) > MOST
    others = (amounts[None] - amounts[:, None]).abs() / amounts[:, None]
    others.fill_diagonal_(torch.inf)
    alone = others.amin(dim=1) > APART
    return at.tolist(), (near & alone[at]).tolist()


def _placed(
    observation: Observation, moved: MovedRows, step: Mapping[int, int], size: int
) -> dict[int, int]:
    """Return the position of each token of ``step``: {} where positions are not learned, or frozen.

    Step by step: each takes ``size`` tokens at most at a position, those whose signs agree most
    with what the position's row moved by; what they explain of it is taken off.
    """
    name = positions_of(observation)
    if name is None or name not in observation.update.tensors or not step:
        return {}
    rest = observation.update.tensors[name].float()
    norms = rest.norm(dim=1)
    rest = rest[norms > QUIET * norms.max()].clone()  # (T, D)
    place: dict[int, int] = {}
    for number in sorted(set(step.values())):
        tokens = [token for token, at in step.items() if at == number]
        signs = moved.rows[tokens].sign()  # (N, D)
        agree = signs @ torch.nn.functional.normalize(rest, dim=1).T  # (N, T)
        rows, columns = linear_sum_assignment(agree.repeat(1, size).numpy(), maximize=True)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            at = column % len(rest)
            place[tokens[row]] = at
            rest[at] -= (rest[at] @ signs[row]) / signs.shape[1] * signs[row]
    return place
