"""What every defense in the table must keep, whatever it does."""

import math
import pickle
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clients import ClientSettings, DataSettings
from clients.update import client_update
from defenses import DEFENSES, DPSGD, Defense, Guarantee, NoDefense, Quantize, TopK
from defenses.base import Here, Memory
from fedsim.effects import Clips, Noises, Rescales, Rounds, Signs, Truncates, Zeroes
from fedsim.headers import header
from fedsim.local import LocalTraining
from fedsim.messages import Broadcast
from fedsim.models import ModelSpec, load_adapter
from fedsim.training import Examples, TrainingSettings
from fedsim.vault.keys import own_key
from fedsim.vault.reader import VaultReader
from tests.conftest import Adapt, Sentences

NAMES = sorted(DEFENSES)
SETTINGS: dict[str, dict[str, Any]] = {
    "dp-sgd": {"noise_multiplier": 0.7}
}  # of those that need some


@pytest.fixture(params=NAMES)
def defense(request: Any) -> Defense:
    return DEFENSES[request.param](**SETTINGS.get(request.param, {}))


def update() -> dict[str, Tensor]:
    """Return an update of odd shapes: a matrix, a vector, a number, zeros, float16."""
    generator = torch.Generator().manual_seed(0)
    return {
        "h.0.weight": torch.randn(7, 5, generator=generator),
        "h.0.bias": 1e-4 * torch.randn(5, generator=generator),
        "scale": torch.tensor(0.3),
        "unused": torch.zeros(3, 2),
        "half": torch.randn(4, generator=generator).half(),
    }


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def equal(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return list(tensors) == list(others) and all(
        torch.equal(tensors[name], others[name]) for name in tensors
    )


def test_what_is_sent_has_the_names_shapes_and_dtypes_of_the_update(defense: Defense) -> None:
    raw, sent = update(), dict(defense.protect(update(), seeded()))
    assert list(sent) == list(raw)
    for name, tensor in raw.items():
        assert sent[name].shape == tensor.shape and sent[name].dtype == tensor.dtype
        assert torch.isfinite(sent[name]).all()


def test_the_update_comes_back_as_it_was(defense: Defense) -> None:
    raw = update()
    sent = dict(defense.protect(raw, seeded()))
    assert equal(raw, update())
    for tensor in sent.values():  # nor does what is done to the sent one reach it
        if not any(tensor is given for given in raw.values()):
            tensor.zero_()
    assert equal(raw, update())


def test_what_it_declares_is_true_of_what_it_sends(defense: Defense) -> None:
    """And whoever changes an update declares something: an attack can be told of nothing else."""
    generator = torch.Generator().manual_seed(0)
    raw = {
        "weight": torch.randn(60, 50, generator=generator),
        "bias": torch.randn(40, generator=generator),
    }
    sent = defense.protect(raw, seeded())
    effects = defense.effects()
    inside = isinstance(defense, DPSGD)  # it changes the training
    assert bool(effects) == (inside or not equal(dict(sent), raw))
    pairs = [] if inside else [(raw[name], sent[name]) for name in raw]
    entries = sum(tensor.numel() for tensor in raw.values())
    for effect in effects:
        match effect:
            case Zeroes(kept=float(kept)):
                left = sum(int(after.count_nonzero()) for _, after in pairs)
                assert left == pytest.approx(kept * entries, abs=4 * (kept * entries) ** 0.5)
            case Rescales(divisor=float(divisor)):
                for before, after in pairs:
                    chosen = after != 0
                    torch.testing.assert_close(after[chosen] * divisor, before[chosen])
            case Signs():
                for before, after in pairs:
                    assert len(after.abs().unique()) == 1 and (before * after >= 0).all()
            case Rounds(bits=int(bits)):
                assert all(len(after.unique()) <= 2**bits for _, after in pairs)
            case Truncates(rank=int(rank)):
                assert torch.linalg.matrix_rank(sent["weight"]) == rank
            case Noises(multiplier=float()):
                assert all((before != after).all() for before, after in pairs)
            case Clips(norm=float(norm)):
                assert norm > 0  # noise hides it; test_gaussian and test_dp_sgd measure it
            case _:
                raise AssertionError(f"{effect!r} does not say what it does")


def test_protection_draws_from_the_generator_alone(defense: Defense) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = dict(defense.protect(update(), seeded(3)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert equal(dict(defense.protect(update(), seeded(3))), first)


@pytest.mark.slow
def test_a_wrapped_training_is_a_training(
    defense: Defense, adapt: Adapt, sentences: Sentences
) -> None:
    model = adapt("gpt2-tiny")
    parameters = model.initial_parameters()
    kept = {name: tensor.clone() for name, tensor in parameters.items()}
    examples = Examples(sequences=tuple(sentences(model, 3)), labels=(0, 1, 1))
    settings = TrainingSettings(algorithm="fedavg", mini_batch_size=2)
    training = defense.wrap(LocalTraining(model, settings))
    sent, loss = training(parameters, examples, seeded(5))
    assert list(sent) == list(parameters) and equal(parameters, kept)
    assert all(sent[name].shape == tensor.shape for name, tensor in parameters.items())
    assert 0.0 < loss < 10.0  # about ln 2 for two labels
    again, _ = defense.wrap(LocalTraining(model, settings))(parameters, examples, seeded(5))
    assert equal(again, sent)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_who_claims_a_guarantee_says_what_a_round_spends_and_nobody_else_does(name: str) -> None:
    defense = DEFENSES[name](**SETTINGS.get(name, {}))
    claimed = header(type(defense)).get("guarantee", "none")  # the paper's, as the file says it
    here = Here(round=1, held=9, expected=3, training=TrainingSettings(), memory=Memory(),
                generator=seeded())  # fmt: skip
    spent = defense.spent([defense.begin(here).keep()])
    if claimed.startswith("none"):
        assert spent is None
        return
    assert claimed.startswith("(epsilon, delta)") and isinstance(spent, Guarantee)
    assert 0.0 < spent.epsilon < math.inf and 0.0 < spent.delta < 1.0
    assert spent.unit == {"dp-sgd": "example", "gaussian": "client"}[name]
    assert all((spent.accountant, spent.sampling, spent.adjacency, spent.composition))


def test_the_repr_is_the_record(defense: Defense) -> None:
    settings = ", ".join(
        f"{field.name}={getattr(defense, field.name)!r}" for field in fields(defense)
    )
    assert repr(defense) == f"{type(defense).__name__}({settings})"


def test_a_defense_is_frozen_hashable_and_survives_pickling(defense: Defense) -> None:
    again = pickle.loads(pickle.dumps(defense))  # Ray sends it to every client
    assert again == defense and hash(again) == hash(defense)
    for field in fields(defense):
        assert field.kw_only
        with pytest.raises(FrozenInstanceError):
            setattr(defense, field.name, getattr(defense, field.name))


def client(vault: Path, *defenses: Defense) -> tuple[ClientSettings, Broadcast]:
    """Return a client that runs ``defenses``, and the first broadcast of their model."""
    spec, training = ModelSpec(name="builtin:gpt2-tiny", weights="random"), TrainingSettings()
    for defense in defenses:
        spec, training = defense.configure(spec, training)
    settings = ClientSettings(
        model=spec, data=DataSettings(name="builtin:clinic"), max_length=12, clients=4,
        batch_size=3, seed=1, vault=vault, seal=own_key().seal, defenses=defenses,
    )  # fmt: skip
    parameters = load_adapter(spec).initial_parameters()
    return settings, Broadcast(round=1, parameters=parameters, config=training.as_config())


@pytest.mark.slow
def test_what_a_client_sends_passes_the_audit_and_is_measured(
    defense: Defense, tmp_path: Path
) -> None:
    settings, broadcast = client(tmp_path / "vault", defense)
    first = client_update(settings, 0, broadcast)
    row = VaultReader(settings.vault).measured(1, 0)
    assert row is not None and "failed" not in row
    (figures,) = row["defenses"]
    assert figures["norm_after"] > 0.0 and figures["norm_before"] > 0.0
    entries = sum(tensor.numel() for tensor in first.tensors.values())
    assert 0 < row["bytes"] <= 4 * entries
    assert row["bits_per_entry"] == pytest.approx(8 * row["bytes"] / entries)
    assert list(first.tensors) == list(broadcast.parameters)
    again = client_update(settings, 0, broadcast)  # the same round, as after a kill
    assert equal(dict(again.tensors), dict(first.tensors))
    assert VaultReader(settings.vault).truth(1, 0) is not None


@pytest.mark.slow
def test_it_composes_with_compression_after_it(defense: Defense, tmp_path: Path) -> None:
    more = (TopK(fraction=0.5, residual=True), Quantize(dtype="int8"))
    settings, broadcast = client(tmp_path / "vault", defense, *more)
    update = client_update(settings, 0, broadcast)
    row = VaultReader(settings.vault).measured(1, 0)
    assert row is not None and len(row["defenses"]) == 3
    assert row["defenses"][1]["density"] <= 0.5001
    assert row["bits_per_entry"] < 8 * 0.5 + 1.3  # a byte for half of them, a bit for each place
    for tensor in update.tensors.values():
        assert len(tensor.unique()) <= 255
    for last, following in zip(row["defenses"], row["defenses"][1:], strict=False):
        assert following["norm_before"] > 0.0 and last["norm_after"] > 0.0


def test_no_defense_changes_nothing() -> None:
    raw, training = update(), object()
    assert equal(dict(NoDefense().protect(raw, seeded())), update())
    assert NoDefense().wrap(training) is training  # type: ignore[arg-type]
