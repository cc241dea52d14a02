"""Defenses in a client's rounds: their lots, their memory, their audit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from clients import ClientSettings
from clients.holdings import Side, client_examples, client_side
from clients.update import client_update
from defenses import DPSGD, Defense, Gaussian, TopK
from defenses.base import Here, Memory, Steps
from defenses.encoding import Encoding
from fedsim.errors import DefenseFailed, MalformedMessage
from fedsim.messages import Update
from fedsim.rng import Secret
from fedsim.training import Examples, Training
from fedsim.types import Parameters
from fedsim.vault.reader import VaultReader
from tests.clients.rounds import Spy, Times, broadcast, noted


@dataclass(frozen=True, kw_only=True)
class Lots(Defense):
    """Two steps of its own choice; counts the rounds; says how it went."""

    here: Here | None = None

    def begin(self, here: Here) -> Defense:
        return replace(self, here=here)

    def draw(self, generator: torch.Generator) -> Steps:
        return ((7, 2), (2, 9, 4))

    def report(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        return {}

    def encoded(self, sent: Parameters, before: Encoding) -> Encoding:
        return before.rounded(8, 0)

    def keep(self) -> Memory:
        assert self.here is not None
        last = self.here.memory
        count = last.values.get("rounds", 0) + 1
        sums = last.tensors.get("sum", torch.zeros(2)) + count
        return Memory(values={"rounds": count, "was": self.here.round}, tensors={"sum": sums})


def flat(update: Update) -> Tensor:
    return torch.cat([update.tensors[name].flatten() for name in sorted(update.tensors)]).float()


def kept(settings: ClientSettings, round_: int) -> Memory:
    return settings.memory.before(1, round_ + 1, 2)[1]


def test_the_vault_knows_what_a_defense_drew_and_nobody_else_how_much(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    held, trained = client_examples(settings, 1), []

    def watch(training: Training) -> Training:
        def run(
            parameters: Parameters, examples: Examples, generator: torch.Generator
        ) -> tuple[dict[str, Tensor], float]:
            trained.append(examples)
            return training(parameters, examples, generator)

        return run

    drawing = replace(settings, defenses=(Lots(), Spy(inside=watch)))
    how: Any = {"algorithm": "fedavg", "mini_batch_size": 2, "local_epochs": 2}
    update = client_update(drawing, 1, broadcast(sent, **how))
    assert noted(settings, 1, 1) == held.take([2, 4, 7, 9])  # each once
    assert trained[0].steps == ((2, 0), (0, 3, 1))  # the same examples, as rows of these four
    assert update.num_examples == 5  # as without: not 4
    assert dict(update.metrics) == {}


def test_memory_goes_from_a_clients_round_to_its_next_and_back_after_a_kill(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    counting = replace(settings, defenses=(Times(factor=1.0), Lots()))
    for round_ in (1, 3, 4):
        client_update(counting, 1, broadcast(sent, round_))
    assert kept(settings, 4).values == {"rounds": 3, "was": 4}
    assert kept(settings, 4).tensors["sum"].tolist() == [6.0, 6.0]  # 1 + 2 + 3
    client_update(counting, 1, broadcast(sent, 3))  # a run that was killed, and goes on from 3
    assert kept(settings, 3).values == kept(settings, 9).values == {"rounds": 2, "was": 3}
    assert kept(settings, 1).values == {"rounds": 1, "was": 1}
    client_update(counting, 2, broadcast(sent, 5))
    assert settings.memory.before(2, 6, 2)[1].values == {"rounds": 1, "was": 5}  # its own
    for round_ in (4, 5, 6):
        client_update(counting, 1, broadcast(sent, round_))
    assert len(list((settings.memory.root / "client=1").iterdir())) == 3  # older ones are gone


def test_a_memory_of_other_defenses_or_a_broken_one_is_refused(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    client_update(replace(settings, defenses=(Lots(),)), 1, broadcast(sent))
    with pytest.raises(MalformedMessage, match="is of 1 defenses, not of 2"):
        settings.memory.before(1, 2, 2)
    (path,) = (settings.memory.root / "client=1").iterdir()
    path.write_bytes(b"cut")
    with pytest.raises(MalformedMessage, match="is not what a client kept"):
        settings.memory.before(1, 2, 1)


def test_the_client_measures_what_each_defense_did(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    defended = replace(settings, defenses=(Times(factor=2.0), Lots()))
    update = client_update(defended, 1, broadcast(sent))
    row = VaultReader(settings.vault).measured(1, 1)
    assert row is not None
    first, second = row["defenses"]
    whole = torch.cat([t.double().flatten() for t in update.tensors.values()])
    assert first["norm_after"] == pytest.approx(whole.norm().item(), rel=1e-9)
    assert first["change"] == pytest.approx(first["norm_after"] / first["norm_before"], rel=0.9)
    assert second == {"norm_before": first["norm_after"], "norm_after": first["norm_after"],
                      "change": 0.0}  # fmt: skip
    assert row["bytes"] == whole.numel()  # four bytes each, and a quarter of them
    assert row["seconds"] > 0.0


def test_a_defense_that_sends_nothing_fails_and_the_lab_knows(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    silent = replace(settings, defenses=(Times(factor=0.0),))
    with pytest.raises(DefenseFailed, match=r"Times\(factor=0.0\) sends nothing"):
        client_update(silent, 1, broadcast(sent))
    row = VaultReader(settings.vault).measured(1, 1)
    assert row is not None and "sends nothing" in row["failed"]
    assert not (settings.memory.root).exists()


def test_a_failure_leaves_a_residual_as_it_was(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    private, lazy = DPSGD(noise_multiplier=1.0), TopK(residual=True)
    client_update(replace(settings, defenses=(private, lazy)), 1, broadcast(sent))
    (_, before) = settings.memory.before(1, 2, 2)

    @dataclass(frozen=True, kw_only=True)
    class Broken(TopK):
        def begin(self, here: Here) -> Defense:
            return replace(self, fraction=0.5)

        def protect(self, tensors: Parameters, generator: torch.Generator) -> Any:
            raise RuntimeError("no memory left")

    with pytest.raises(RuntimeError, match="no memory left"):
        client_update(replace(settings, defenses=(private, Broken())), 1, broadcast(sent, 2))
    (spent, after) = settings.memory.before(1, 3, 2)
    assert spent.values["rounds"] == 2
    assert before.tensors.keys() == after.tensors.keys() != set()
    assert all(torch.equal(after.tensors[name], t) for name, t in before.tensors.items())


def test_what_a_round_draws_from_hangs_on_all_that_goes_into_it(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    secretive = replace(settings, secret=Secret(bytes(16)))
    told, held = broadcast(sent), client_examples(settings, 1)
    last = held.sequences[-1]
    edited = replace(held, sequences=(*held.sequences[:-1], last[:-1]))
    moved = {name: t + 1e-6 for name, t in sent.items()}
    rounds = [
        (held, told),
        (edited, told),  # a text that the round may not even train on
        (replace(held, labels=held.labels[::-1]), told),
        (held, broadcast(moved)),
        (held, broadcast(sent, wire_dtype="float16")),
    ]
    assert secretive.bound(held, broadcast(sent)) == secretive.bound(*rounds[0])
    assert len({secretive.bound(*round_).secret for round_ in rounds}) == len(rounds)
    assert settings.bound(*rounds[1]) == settings  # without a secret all follows from the seed


@pytest.mark.slow
def test_no_noise_is_shared_by_two_that_train_on_other_texts(
    settings: ClientSettings, sent: dict[str, Tensor]
) -> None:
    noisy = (Gaussian(noise_multiplier=1000.0),)  # what is sent is noise but for a millionth
    secretive = replace(settings, secret=Secret(bytes(16)), defenses=noisy)
    side = client_side(secretive, 1)
    rows = replace(side.examples, sequences=side.examples.sequences[::-1])
    first, again, other = (
        flat(client_update(secretive, 1, broadcast(sent), one))
        for one in (side, side, Side(side.adapter, rows))
    )
    assert torch.equal(first, again)
    assert torch.corrcoef(torch.stack([first, other]))[0, 1].abs() < 5 / other.numel() ** 0.5
