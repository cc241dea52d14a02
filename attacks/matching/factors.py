"""Factors of gradients (fedsim.models.factors) taken together: alike ones, and one's parts."""

from collections.abc import Hashable, Sequence

import torch

from fedsim.models.factors import Factor, Lookups, Outer, Plain


def alike(name: str, factor: Factor) -> Hashable:
    """Return what parameters' factors have in common that :func:`stacked` takes together."""
    if isinstance(factor, Outer):
        return factor.inputs.shape, factor.errors.shape, factor.flipped
    return factor.value.shape if type(factor) is Plain else name


def stacked(factors: Sequence[Factor]) -> Factor:
    """Return factors that are alike as one: each is a candidate of its own."""
    first = factors[0]
    if len(factors) == 1:
        return first
    if isinstance(first, Plain):
        return Plain(torch.cat([f.value for f in factors if isinstance(f, Plain)]))
    outer = [f for f in factors if isinstance(f, Outer)]
    inputs, errors = (torch.cat([getattr(o, n) for o in outer]) for n in ("inputs", "errors"))
    return Outer(inputs, errors, outer[0].flipped)


def joined(factors: Sequence[Factor]) -> Factor:
    """Return the sum of one parameter's factors of one kind, each for one candidate."""
    first = factors[0]
    if isinstance(first, Plain):
        return Plain(torch.stack([f.value for f in factors if isinstance(f, Plain)]).sum(0))
    if isinstance(first, Lookups):
        rows = [f for f in factors if isinstance(f, Lookups)]
        return Lookups(torch.cat([r.ids for r in rows], 1), torch.cat([r.errors for r in rows], 1))
    outer = [f for f in factors if isinstance(f, Outer)]
    inputs, errors = (torch.cat([getattr(o, n) for o in outer], 1) for n in ("inputs", "errors"))
    return Outer(inputs, errors, outer[0].flipped)
