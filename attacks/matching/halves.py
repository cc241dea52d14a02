"""Products with constant matrices in bfloat16, all else in float32: for descents on a cosine.

A step of a descent reads every weight four times and every observed matrix twice, and little else
takes as long. Rounded so, distances are off by about 1e-4 (MiniLM, CoLA), and a step takes three
quarters of the time.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SMALL = 2**15  # entries below which a matrix stays as it is


def has_bfloat16(device: torch.device) -> bool:
    """Return whether ``device`` multiplies matrices of bfloat16 faster than of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Halves(TorchFunctionMode):
    """Under ``with``: linear maps and ``torch.matmul`` by constants round both sides to bfloat16.

    The constants must not change as long as this lives: each is rounded once.
    """

    def __init__(self, whole: Iterable[Tensor] = ()) -> None:
        """Leave the matrices ``whole`` as they are."""
        super().__init__()
        self._whole = {matrix.data_ptr() for matrix in whole}
        self._rounded: dict[Any, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is functional.linear and self._takes(args[1]):
            bias = args[2] if len(args) > 2 else given.get("bias")
            made = _Product.apply(args[0], self._half(args[1]))  # type: ignore[no-untyped-call]
            return made if bias is None else made + bias
        if func is torch.addmm and not given and self._takes(args[2]):  # Conv1D's
            half = self._half(args[2]).mT
            return args[0] + _Product.apply(args[1], half)  # type: ignore[no-untyped-call]
        if func is torch.matmul and not args[1].requires_grad and self._takes(args[1]):
            return _Product.apply(args[0], self._half(args[1]).mT)  # type: ignore[no-untyped-call]
        return func(*args, **given)

    def _takes(self, matrix: Tensor) -> bool:
        large = matrix.ndim > 1 and matrix.shape[-1] * matrix.shape[-2] >= SMALL
        return large and matrix.dtype == torch.float32 and matrix.data_ptr() not in self._whole

    def _half(self, matrix: Tensor) -> Tensor:
        """Return ``matrix`` in bfloat16; it is held on to, so that its address stays its own."""
        key = matrix.data_ptr(), matrix.shape, matrix.stride()
        if key not in self._rounded:
            self._rounded[key] = matrix, matrix.detach().bfloat16()
        return self._rounded[key][1]


class _Product(torch.autograd.Function):
    """x W^T in bfloat16, and its derivatives by x, of every order; W is constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return (x.bfloat16() @ weight.mT).float()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        made: Tensor = _Product.apply(slopes[0], weight.mT)  # type: ignore[no-untyped-call]
        return made, None
