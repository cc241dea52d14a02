"""What the tests share: one thread, tiny models built once, plain gradients, borrowed data."""

import ctypes
import functools
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedsim.messages import Broadcast, Knowledge, Observation, Update, UpdateKind
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.types import Parameters, Tokens

SHARED = Path(__file__).parents[2] / "shared"

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, MOST = -1, -3, 2**30  # of malloc.h, and a size in bytes

Adapt = Callable[..., ModelAdapter]
Gradient = Callable[..., dict[str, Tensor]]
Observe = Callable[..., Observation]
Sentences = Callable[..., list[Tokens]]


@functools.lru_cache(maxsize=16)
def _drawn(model: ModelAdapter) -> dict[str, Tensor]:
    return model.initial_parameters()


def initial(model: ModelAdapter) -> dict[str, Tensor]:
    """Return the weights of round 1, the caller's own: a model draws them anew, alike each time."""
    return {name: tensor.clone() for name, tensor in _drawn(model).items()}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what starts Ray, then what is slow: a worker of xdist takes its part in order."""
    items.sort(key=lambda item: [item.get_closest_marker(mark) is None for mark in ("ray", "slow")])


def pytest_collection_finish() -> None:
    """Have no look for garbage go through all that was imported: it is there to stay."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Have freed memory kept: to get that of a model back from the kernel takes as long as a step.

    For this process by glibc's mallopt, for those that it starts by what glibc reads from there.
    """
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(MOST))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(MOST))
    if hasattr(glibc := ctypes.CDLL(None), "mallopt"):
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            glibc.mallopt(option, MOST)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # a float sum depends on how many share it


@pytest.fixture(scope="session", autouse=True)
def own_key_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the vaults' key with the tests, not with whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSIM_KEY_FILE", str(tmp_path_factory.mktemp("key") / "vault.key"))
        yield


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Return a path under ``shared/``, beside the repository, or skip where it is not there."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"needs shared/{relative} beside the repository, which is absent")
        return path

    return find


@pytest.fixture(scope="session")
def adapt() -> Adapt:
    """Return the adapter of a preset, built once: ``adapt("gpt2-tiny", task="causal-lm")``."""
    made: dict[ModelSpec, ModelAdapter] = {}

    def make(preset: str, **fields: object) -> ModelAdapter:
        spec = ModelSpec(name=f"builtin:{preset}", **fields)  # type: ignore[arg-type]
        if spec not in made:
            made[spec] = load_adapter(spec)
        return made[spec]

    return make


@pytest.fixture(scope="session")
def sentences() -> Sentences:
    """Return sentences of the built-in corpus as token ids, specials included."""
    from clients.corpus import clinic

    texts = [text for text, _ in clinic()]

    def encode(model: ModelAdapter, count: int, *, skip: int = 0) -> list[Tokens]:
        some = texts[skip : skip + count]
        return [tuple(ids) for ids in model.tokenizer(some)["input_ids"]]

    return encode


@pytest.fixture(scope="session")
def gradient() -> Gradient:
    """Return dL/dθ of a batch by plain autograd, one unpadded example at a time.

    The loss is the mean over examples, or over predicted tokens for a next-token loss.
    """

    def of(
        model: ModelAdapter,
        parameters: Parameters,
        sequences: Sequence[Tokens],
        labels: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        module = model.load(parameters).eval()
        module.zero_grad(set_to_none=True)
        causal_lm = model.spec.task == "causal-lm"
        weights = [len(tokens) - 1 if causal_lm else 1 for tokens in sequences]
        for row, tokens in enumerate(sequences):
            ids = torch.tensor([tokens])
            label = row % 2 if labels is None else labels[row]
            target = ids if causal_lm else torch.tensor([label])
            loss = module(input_ids=ids, labels=target).loss
            (loss * weights[row] / sum(weights)).backward()
        result = {
            name: torch.zeros_like(one) if one.grad is None else one.grad.detach().clone()
            for name, one in module.named_parameters()
            if one.requires_grad
        }
        module.zero_grad(set_to_none=True)
        return result

    return of


@pytest.fixture(scope="session")
def observe() -> Observe:
    """Return what an attack sees of an update."""

    def see(
        model: ModelAdapter,
        parameters: Parameters,
        tensors: Parameters,
        knowledge: Knowledge | None = None,
        examples: int = 1,
        kind: UpdateKind = "gradient",
    ) -> Observation:
        return Observation(
            model=model,
            broadcast=Broadcast(round=1, parameters=parameters),
            update=Update(tensors=tensors, kind=kind, num_examples=examples),
            knowledge=knowledge or Knowledge(),
        )

    return see
