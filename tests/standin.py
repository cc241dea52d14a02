"""A stand-in for an accelerator: it computes on the CPU, and mixes devices no more than CUDA does.

Its tensors say that they are on ``DEVICE`` ("meta", the one device that every build has and that
autograd runs on the caller's thread) and hold plain CPU tensors; a mode runs each operation on
those, once it has seen that CUDA would take the devices of its arguments. What it can't show: the
rounding of another machine's kernels, memory, speed, and random numbers drawn on the device.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
aten = torch.ops.aten

# operations that read one device and write another
COPIES = {aten._to_copy.default, aten.copy_.default}
# operations whose indices may stay on the CPU: by the place of what may not
INDEXED = {
    aten.index.Tensor: (0,),
    aten.index_put.default: (0, 2),
    aten.index_put_.default: (0, 2),
    aten._index_put_impl_.default: (0, 2),
}
# operations beside the pointwise ones whose 0-dimensional values may stay on the CPU
VALUED = {*INDEXED, aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}


class There(Tensor):
    """A tensor on the stand-in."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "There":
        made: There = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"There({self.held!r})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(parts: Mapping[str, Tensor], *_: Any) -> "There":
        return There(parts["held"])

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch types it as an instance's
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func}: a tensor of the stand-in outlived its block")


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        leaves = _leaves([*args, *kwargs.values()])
        there = any(isinstance(one, There) for one in leaves)
        target = kwargs.get("device")
        if not there and target != DEVICE:
            return func(*args, **kwargs)
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        else:
            _check_devices(func, args, kwargs)
        if any(isinstance(one, torch.Generator) for one in leaves) and target in (None, DEVICE):
            raise RuntimeError(f"{func}: Expected a device generator but found one of the CPU")
        if func is aten.linalg_lstsq.default:
            kwargs["driver"] = "gels"  # the one that CUDA has: of full rank only
        wrappers = {id(one.held): one for one in leaves if isinstance(one, There)}
        if _tagged(func, torch.Tag.inplace_view):  # squeeze_ and its like: the wrapper's shape, too
            with no_dispatch():
                func(*args, **kwargs)
        args = [_held(one) for one in args]
        kwargs = {name: _held(one) for name, one in kwargs.items()}
        result = func(*args, **kwargs)
        if func is aten.empty.memory_format:  # loud where nothing was written
            result.fill_(_nothing(result.dtype))
        if func is aten.copy_.default:  # a CPU tensor that was copied into stays one
            return wrappers.get(id(result), result)
        if target is not None and target != DEVICE:
            return result
        return _wrapped(result, wrappers)


class _Functions(TorchFunctionMode):
    """What torch decides before any mode for operations sees it.

    On "meta" it throws the numbers of a list away, as in ``torch.tensor`` and as an index; and
    ``tolist`` wants a plain tensor.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return func(*args, **kwargs).to(device)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            one, index, *value = args
            parts = index if isinstance(index, tuple) else (index,)
            return func(one, tuple(_listed(at) for at in parts), *value)
        if func is Tensor.tolist:
            return func(args[0].cpu())
        return func(*args, **kwargs)


@contextlib.contextmanager
def standin() -> Iterator[torch.device]:
    """Have a device that is not the CPU inside the block."""
    with _Functions(), _Operations():  # type: ignore[no-untyped-call]
        yield DEVICE


def another_device() -> contextlib.AbstractContextManager[torch.device]:
    """Have a GPU inside the block where there is one, else the stand-in."""
    return contextlib.nullcontext(torch.device("cuda")) if torch.cuda.is_available() else standin()


def _listed(index: Any) -> Any:
    if not isinstance(index, list):
        return index
    return torch.tensor(index) if index else torch.empty(0, dtype=torch.int64)


@functools.cache
def _tagged(func: Any, tag: torch.Tag) -> bool:
    return tag in func.tags


def _leaves(some: Iterable[Any]) -> list[Any]:
    """Return what is in lists within lists; an operation takes no other trees (pytree is slow)."""
    found = []
    for one in some:
        if isinstance(one, (list, tuple)):
            found += _leaves(one)
        else:
            found.append(one)
    return found


def _held(one: Any) -> Any:
    if isinstance(one, (list, tuple)):
        return [_held(part) for part in one]
    return one.held if isinstance(one, There) else one


def _wrapped(one: Any, wrappers: Mapping[int, There]) -> Any:
    if isinstance(one, (list, tuple)):
        return type(one)([_wrapped(part, wrappers) for part in one])  # torch's named ones, too
    if not isinstance(one, Tensor):
        return one
    return wrappers[id(one)] if id(one) in wrappers else There(one)


def _nothing(dtype: torch.dtype) -> float | int:
    if dtype.is_floating_point:
        return float("nan")
    return 1 if dtype == torch.bool else torch.iinfo(dtype).max


def _check_devices(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise as CUDA does where tensors on the CPU meet tensors on the device."""
    if func in COPIES:
        return
    places = INDEXED.get(func)
    strict = args if places is None else [args[place] for place in places]
    leaves = _leaves([*strict, *kwargs.values()])
    for place, one in enumerate(one for one in leaves if isinstance(one, Tensor)):
        if isinstance(one, There):
            continue
        scalars = func in VALUED or _tagged(func, torch.Tag.pointwise)
        written = place == 0 and func._schema.is_mutable
        if one.ndim or not scalars or written:
            raise RuntimeError(
                f"{func}: Expected all tensors to be on the same device, but got one of shape "
                f"{tuple(one.shape)} on the CPU beside others on the device"
            )
