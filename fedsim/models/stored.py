"""What the files of a checkpoint hold: weights of floating point, each of them once."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from fedsim.errors import BadInput, reading

FLOATING = ("F64", "F32", "F16", "BF16")  # what has a weight's own values; scales belong to less
TORCH = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
FILES = ("model.safetensors", "pytorch_model.bin")  # each also as shards, named in FILE.index.json


def check_stored(module: PreTrainedModel, name: str) -> None:
    """Check the files that the weights of ``module``, called ``name``, were read from.

    transformers turns whatever a tensor is made of into floats, and of two for one weight it takes
    one, without a word.

    Raises:
        BadInput: a weight is held as integers, as bits, as complex numbers or as floats of 8 bits
            or fewer, or it is held twice; the line names the tensor.
    """
    prefix = module.base_model_prefix
    floating = {_plain(k, prefix) for k, t in module.state_dict().items() if t.is_floating_point()}
    found: dict[str, str] = {}
    for path in _files(module, name):
        for key, dtype in _tensors(path, name):
            weight = _plain(key, prefix)
            if weight not in floating:  # masks and positions are integers by right
                continue
            if dtype not in FLOATING:
                raise BadInput(
                    f"model.name: {key!r} of {name!r} must be {', '.join(FLOATING)}, got {dtype}"
                )
            if weight in found:
                raise BadInput(
                    f"model.name: {name!r} holds one weight twice, as {found[weight]!r} and {key!r}"
                )
            found[weight] = key


def _plain(key: str, prefix: str) -> str:
    """Return the one name of a weight among those that transformers takes for it."""
    key = re.sub(rf"^(?:{re.escape(prefix)}.)+", "", key)  # any character: as it does
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        key = key.replace(f"LayerNorm.{old}", f"LayerNorm.{new}")
    return key


def _files(module: nn.Module, name: str) -> list[Path]:
    """Return the files of the checkpoint, found where and in the order that transformers looks."""
    given = getattr(module.config, "transformers_weights", None)
    for file in [given] if given else [f for one in FILES for f in (one, f"{one}.index.json")]:
        path = Path(name) / file if Path(name).is_dir() else try_to_load_from_cache(name, file)
        if not isinstance(path, str | Path) or not Path(path).is_file():
            continue
        if not file.endswith(".json"):
            return [Path(path)]
        with reading(f"model.name: no weights in {name!r}"):
            shards = json.loads(Path(path).read_bytes())["weight_map"].values()
        return [Path(path).parent / shard for shard in sorted(set(shards))]
    raise BadInput(
        f"model.name: cannot tell what files the weights of {name!r} are in; name a directory that "
        f"holds them as {' or '.join(FILES)}"
    )


def _tensors(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each tensor in a file, and what its numbers are held as."""
    with reading(f"model.name: no weights in {name!r}"):
        if path.suffix == ".bin":
            held = torch.load(path, map_location="meta", weights_only=True).items()
            kinds = [(key, TORCH.get(one.dtype, str(one.dtype))) for key, one in held]
        else:
            with safe_open(path, framework="pt") as file:
                kinds = [(key, file.get_slice(key).get_dtype()) for key in file.keys()]
    yield from kinds
