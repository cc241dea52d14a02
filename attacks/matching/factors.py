"""Factors of gradients (fedsim.models.factors) taken together: alike ones, and one's parts."""

from collections.abc import Hashable, Sequence

import torch

from fedsim.models.factors import Factor, Outer, Plain, Rows


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
        return Plain(torch.cat([one.value for one in factors if isinstance(one, Plain)]))
    outer = [one for one in factors if isinstance(one, Outer)]
    inputs, errors = (torch.cat([getattr(o, n) for o in outer]) for n in ("inputs", "errors"))
    return Outer(inputs, errors, outer[0].flipped)


def joined(factors: Sequence[Factor]) -> Factor:
    """Return the sum of one parameter's factors of one kind, each for one candidate."""
    first = factors[0]
    if isinstance(first, Plain):
        return Plain(torch.stack([one.value for one in factors if isinstance(one, Plain)]).sum(0))
    if isinstance(first, Rows):
        rows = [one for one in factors if isinstance(one, Rows)]
        return Rows(torch.cat([r.ids for r in rows], 1), torch.cat([r.errors for r in rows], 1))
    outer = [one for one in factors if isinstance(one, Outer)]
    inputs, errors = (torch.cat([getattr(o, n) for o in outer], 1) for n in ("inputs", "errors"))
    return Outer(inputs, errors, outer[0].flipped)
