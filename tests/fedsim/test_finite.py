import math

import pytest
import torch

from fedsim.finite import all_finite, finite

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_among_many_is_found_wherever_it_is(dtype: torch.dtype, bad: float) -> None:
    good = torch.linspace(-1.0, 1.0, 77).to(dtype).reshape(7, 11)
    assert finite(good)
    for place in (0, 38, 76):
        tensor = good.clone()
        tensor.view(-1)[place] = bad
        assert not finite(tensor)
        assert not all_finite([good, tensor])
        assert not finite(tensor.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_greatest_numbers_are_numbers(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    assert finite(torch.tensor([most, most, -most], dtype=dtype))


def test_what_has_no_values_or_whole_ones_is_finite() -> None:
    assert all_finite([torch.zeros(0, 3), torch.arange(3), torch.tensor([True])])
    assert all_finite([])


def test_a_tensor_that_is_trained_is_looked_at_as_any_other() -> None:
    assert finite(torch.ones(2, requires_grad=True))
