"""An update of the attacker's own, of public texts, by which it learns how members stand out.

The attacker trains as the client was told to, on public texts, and sees in which maps these stand
out of its own update from texts that it did not train on: a linear discriminant of the maps'
statistics. So no rule says by hand which blocks tell: in a classifier the first, in a language
model the last. As Wu et al., "Learning to Invert" (arXiv:2210.10880), it learns from a simulated
client.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.membership.features import sites_of
from attacks.membership.residual import PooledSpan, span_of
from attacks.membership.texts import NULL, Parts, fingerprint, parts, twins
from attacks.membership.view import View
from fedsim.errors import UnsupportedObservation
from fedsim.local import simulated_update
from fedsim.messages import Observation, Texts
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Parameters

RIDGE = 1.0  # of the discriminant's covariance, whose diagonal is 1
APART = 3.0  # between an exact residual of a member and the least of a twin
PILOT = 64  # of its own members, and twice as many others, by which the attacker chooses blocks
DEEP = 12  # blocks from which on to look at fewer is worth what it may lose
THIRDS = (2 / 3, 1 / 3, 0.0)  # where the blocks that are looked at may begin
PLAIN = 5.0  # deviations that members are off, from which on A's gradients are not looked at
ENOUGH = 0.8  # of what all blocks separate, for fewer to do: .83 lost nothing, .78 did (see docs)

LOG = logging.getLogger("fedsim.attacks")


@dataclass(frozen=True)
class Rehearsal:
    """What the attacker learned of a round from an update of its own."""

    view: View
    public: Texts
    parts: Parts  # of the public texts, for clients' updates
    weights: Tensor  # (S,) of the sites' statistics
    separated: float  # the share of pairs of its own member and another that it puts in order
    limit: float | None  # an exact residual below is a member's; None: none tells
    gap: float  # of its own span, where residuals tell: a client's with noise has a smaller one


def rehearse(observation: Observation, public: Texts) -> Rehearsal:
    """Train on some of the ``public`` texts as a client would; learn which sites tell members.

    All that is random hangs on the round and the texts alone: clients of a round share it.
    """
    weights, examples = observation.broadcast.parameters, observation.update.num_examples
    seed = fingerprint(weights, public)
    view = _view(observation, seed)
    count = max(1, min(examples, len(public) // 2))
    own, others = public.take(range(count)), public.take(range(count, len(public)))
    LOG.info("membership: training on texts of its own")
    update = own_update(observation, own, seed)
    span = exact_span(view, update, len(own))
    limit = None if span is None else _exact_limit(view, span, update, own, others, seed)
    if limit is None:
        view = _narrowed(view, update, own, others)
    made, members, some = _own_statistics(view, update, own, others)
    learned = discriminant(made, members, some.null)
    scores = standardised(made, some.null) @ learned
    higher = scores[members][:, None] > scores[list(some.null)]
    return Rehearsal(
        view=view,
        public=public,
        parts=parts(range(len(public))),
        weights=learned,
        separated=float(higher.double().mean()),
        limit=limit,
        gap=span.gap if span else 0.0,
    )


def _view(observation: Observation, seed: int) -> View:
    model, update = observation.model, observation.update.tensors
    training = TrainingSettings.from_config(observation.broadcast.config)
    generator = stream(seed, "sketch")
    sites = sites_of(model, update, generator)
    if not sites:
        raise UnsupportedObservation(
            "membership needs the update of a linear map in a block, got none"
        )
    halves = sites_of(model, update, generator, half="A")
    halves = halves if training.algorithm == "fedavg" else []
    return View(model, observation.broadcast.parameters, training, sites, halves)


def own_update(observation: Observation, texts: Texts, seed: int) -> Parameters:
    """Return the update of a client that holds ``texts``, as often as the observed one has any."""
    wanted = max(1, observation.update.num_examples)
    some = texts.take(place % len(texts) for place in range(wanted))
    held = Examples(sequences=some.sequences, labels=some.labels)
    update = simulated_update(observation.model, observation.broadcast, held, seed, "rehearsal")
    return {name: tensor.float() for name, tensor in update.tensors.items()}


def _own_statistics(
    view: View, update: Parameters, own: Texts, others: Texts, null: float = NULL
) -> tuple[Tensor, list[int], Parts]:
    """Return the statistics of the attacker's own update, its members' rows, the others' parts."""
    some = parts(range(len(others)), null)
    made, _ = view.statistics(update, others.and_(own), some.known, telling("its own update"))
    return made, list(range(len(others), len(others) + len(own))), some


def _narrowed(view: View, update: Parameters, own: Texts, others: Texts) -> View:
    """Return the least view that separates the attacker's own members as all blocks do.

    Where there are too few texts to tell, or few blocks, it is all.
    """
    if view.model.layers < DEEP:
        return view
    few, some = own.take(range(len(own))[:PILOT]), others.take(range(len(others))[: 2 * PILOT])
    if len(few) < PILOT // 2 or len(some) < PILOT:
        return view
    begun = replace(view, midway=())  # its store is the view's
    made, members, divided = _own_statistics(begun, update, few, some, null=0.5)
    layers = [view.layer(site) for site in view.sites]
    found = {}
    for first in (int(share * view.model.layers) for share in THIRDS):
        chosen = made[:, [layer >= first for layer in layers]]
        found[first] = separation(chosen, members, divided.null)
    LOG.info("membership: %s", found)
    enough = [first for first, far in found.items() if far >= ENOUGH * max(found.values())]
    return view.narrowed(enough[0], midway=max(found.values()) < PLAIN)


def separation(made: Tensor, members: Sequence[int], null: Sequence[int]) -> float:
    """Return how far members are from the null, in deviations, by a discriminant of other texts.

    Half of either learns and the other half tells, both ways.
    """
    if not made.shape[1]:
        return 0.0
    far = []
    for first in (0, 1):
        learned = discriminant(made, members[first::2], null[first::2])
        scores = standardised(made, null[first::2]) @ learned
        inside, outside = scores[list(members[1 - first :: 2])], scores[list(null[1 - first :: 2])]
        far.append(float((inside.mean() - outside.mean()) / outside.std().clamp_min(1e-12)))
    return sum(far) / 2


def standardised(made: Tensor, null: Sequence[int]) -> Tensor:
    """Return statistics (N, S) less the mean of the ``null`` rows, over their deviation."""
    chance = made[list(null)]
    return (made - chance.mean(dim=0)) / chance.std(dim=0).clamp_min(1e-12)


def discriminant(made: Tensor, members: Sequence[int], null: Sequence[int]) -> Tensor:
    """Return the weights of sites that tell members from the null best: Fisher's, with a ridge."""
    scores = standardised(made, null)
    covariance = torch.cov(scores[list(null)].mT).reshape(scores.shape[1], -1)
    ridge = RIDGE * torch.eye(len(covariance), dtype=covariance.dtype)
    weights: Tensor = torch.linalg.solve(covariance + ridge, scores[list(members)].mean(dim=0))
    return weights


def telling(what: str) -> Callable[[int], None]:
    """Return what tells of progress."""
    return lambda done: LOG.info("membership: %s: gradients of %d texts", what, done)


def _exact_limit(
    view: View, span: PooledSpan, update: Parameters, own: Texts, others: Texts, seed: int
) -> float | None:
    """Return the residual that parts the attacker's own members from their twins, if one does."""
    at = view.half_way(update)
    inside = float(span.residuals(view.model, at, own).max())
    near = twins(view.model, own, stream(seed, "twins"))
    changed = [row for row, tokens in enumerate(near.sequences) if tokens != own.sequences[row]]
    outside = torch.cat(
        [span.residuals(view.model, at, some) for some in (near.take(changed), others)]
    )
    least = float(outside.min())
    return (max(inside, 1e-12) * least) ** 0.5 if least > APART * inside else None


def exact_span(view: View, update: Parameters, texts: int) -> PooledSpan | None:
    """Return the span of a classifier's last block, if its update is a sum of gradients."""
    if view.adam or view.model.spec.task != "classification" or view.model.spec.lora_rank:
        return None
    return span_of(view.model, update, view.sites, texts)
