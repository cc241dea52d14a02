"""DP-SGD in a client's round: lots, noise, its audit, its accountant, bad settings."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from defenses import DPSGD, Defense, Gaussian, LoRA, RandomMask, SecAgg, TopK
from defenses.base import Here, Memory, Setting
from defenses.dp.accounting import prv, rdp
from fedsim.errors import BadInput, ClientFailure, DefenseFailed
from fedsim.local import LocalTraining
from fedsim.models import ModelAdapter
from fedsim.training import Examples, TrainingSettings
from tests.conftest import Adapt, Sentences, initial


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def here(
    *, held: int = 40, expected: int = 8, memory: Memory | None = None, **training: Any
) -> Here:
    return Here(
        round=1,
        held=held,
        expected=expected,
        training=TrainingSettings(**training),
        memory=memory or Memory(),
        generator=seeded(11),
    )


def setting(model: ModelAdapter, *defenses: Defense, **fields: Any) -> Setting:
    given: dict[str, Any] = {
        "adapter": model,
        "training": TrainingSettings(),
        "batch_size": 4,
        "held": (40, 30),
        "clients_per_round": 2,
        "rounds": 5,
        "defenses": defenses,
    }
    return Setting(**(given | fields))


def round_(
    work: Defense, model: ModelAdapter, examples: Examples, at: Here
) -> tuple[dict[str, Tensor], float]:
    """Train one round, as a client does, of the examples that are all it holds."""
    steps = work.draw(seeded(5))
    assert steps is not None
    training = work.wrap(LocalTraining(model, at.training))
    weights = initial(model)
    return training(weights, replace(examples, steps=steps), seeded())


def texts(model: ModelAdapter, sentences: Sentences, count: int) -> Examples:
    return Examples(
        sequences=tuple(sentences(model, count)), labels=tuple(i % 2 for i in range(count))
    )


# What is drawn


def test_lots_are_poisson() -> None:
    drawn = []
    for seed in range(300):
        steps = DPSGD(noise_multiplier=1.0).begin(here()).draw(seeded(seed))
        assert steps is not None and len(steps) == 1
        drawn.append(len(steps[0]))
    # Binomial(40, 8 / 40): mean 8, variance 6.4; five standard errors of 300 draws.
    mean = sum(drawn) / 300
    variance = sum((size - mean) ** 2 for size in drawn) / 299
    assert abs(mean - 8.0) < 5 * math.sqrt(6.4 / 300)
    assert abs(variance - 6.4) < 5 * 6.4 * math.sqrt(2 / 300)


def test_fedavg_draws_for_each_step_what_plain_training_would_take() -> None:
    at = here(algorithm="fedavg", local_epochs=3, mini_batch_size=3)
    steps = DPSGD(noise_multiplier=1.0).begin(at).draw(seeded())
    assert steps is not None and len(steps) == 9  # 3 epochs of ceil(8 / 3) steps
    assert len({place for step in steps for place in step}) > 8  # from all that it holds


# What is sent


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny", "bert-tiny"])
@pytest.mark.parametrize("how", [
    {},
    {"algorithm": "fedavg", "local_epochs": 2, "mini_batch_size": 4, "learning_rate": 0.05},
    {"algorithm": "fedavg", "mini_batch_size": 4, "optimizer": "momentum"},
    {"algorithm": "fedavg", "mini_batch_size": 4, "optimizer": "adamw"},
    {"algorithm": "fedavg", "mini_batch_size": 8, "proximal_mu": 0.1},
])  # fmt: skip
def test_the_noise_on_the_wire_is_z_c_over_b(
    preset: str, how: dict[str, Any], adapt: Adapt, sentences: Sentences
) -> None:
    model = adapt(preset)
    at = here(held=12, expected=6, **how)
    work = DPSGD(noise_multiplier=0.8, clip=0.5).begin(at)
    sent, _ = round_(work, model, texts(model, sentences, 12), at)
    figures = work.audit(sent, sent)
    size = 6.0 if at.training.algorithm == "fedsgd" else min(6, at.training.mini_batch_size)
    assert figures["noise_std_wanted"] == pytest.approx(0.8 * 0.5 / size)
    assert figures["noise_std"] == pytest.approx(0.8 * 0.5 / size, rel=0.02)


def test_lora_moves_and_an_empty_batch_still_sends(adapt: Adapt, sentences: Sentences) -> None:
    model = adapt("gpt2-tiny", lora_rank=4)
    at = here(held=3, expected=1)
    work = DPSGD(noise_multiplier=1.0).begin(at)
    nobody = Examples(sequences=(), labels=(), steps=((),))
    sent, loss = work.wrap(LocalTraining(model, at.training))(initial(model), nobody, seeded())
    assert loss == 0.0 and all(
        tensor.std() > 0.5 for tensor in sent.values() if tensor.numel() > 50
    )
    assert work.audit(sent, sent)["noise_std"] == pytest.approx(1.0, rel=0.03)  # z C / 1


def test_dropout_momentum_and_batches_of_one_work(adapt: Adapt, sentences: Sentences) -> None:
    model = adapt("gpt2-tiny")
    at = here(held=2, expected=1, algorithm="fedavg", mini_batch_size=1, local_epochs=3,
              optimizer="momentum", dropout=True)  # fmt: skip
    work = DPSGD(noise_multiplier=0.5).begin(at)
    sent, _ = round_(work, model, texts(model, sentences, 2), at)
    assert work.audit(sent, sent)["steps"] == 3.0


def test_the_loss_is_not_told() -> None:
    assert DPSGD(noise_multiplier=1.0).begin(here()).report({"train_loss": 0.7}) == {}


# The audit


@pytest.mark.parametrize(
    ("factor", "message"), [(0.0, "sends nothing"), (1.1, "the noise on the wire has a standard")]
)
def test_what_is_not_the_mechanism_fails(
    factor: float, message: str, adapt: Adapt, sentences: Sentences
) -> None:
    model, at = adapt("gpt2-tiny"), here(held=8, expected=4)
    work = DPSGD(noise_multiplier=1.0).begin(at)
    sent, _ = round_(work, model, texts(model, sentences, 8), at)
    wrong = {name: factor * tensor for name, tensor in sent.items()}
    with pytest.raises(DefenseFailed, match=message):
        work.audit(wrong, wrong)


def test_a_gradient_read_before_the_step_fails(adapt: Adapt, sentences: Sentences) -> None:
    model, at = adapt("gpt2-tiny"), here(held=8, expected=4)
    examples = texts(model, sentences, 8)
    work = DPSGD(noise_multiplier=0.1).begin(at)
    round_(work, model, examples, at)
    raw, _ = LocalTraining(model, at.training)(initial(model), examples.take([0, 3]), seeded())
    with pytest.raises(DefenseFailed, match="the noise on the wire has a standard deviation"):
        work.audit(raw, raw)


def test_noise_that_the_server_adds_later_fails(adapt: Adapt, sentences: Sentences) -> None:
    model, at = adapt("gpt2-tiny"), here(held=8, expected=4)
    work: Any = DPSGD(noise_multiplier=1.0).begin(at)
    round_(work, model, texts(model, sentences, 8), at)
    with pytest.raises(DefenseFailed, match="standard deviation of 0"):
        work.audit(work.record.clean, work.record.clean)


def test_examples_that_were_not_clipped_fail(adapt: Adapt, sentences: Sentences) -> None:
    model, at = adapt("gpt2-tiny"), here(held=8, expected=4)
    work: Any = DPSGD(noise_multiplier=1.0).begin(at)
    sent, _ = round_(work, model, texts(model, sentences, 8), at)
    for tensor in work.record.clean.values():
        tensor *= 100.0
    with pytest.raises(DefenseFailed, match="examples clipped to 1 sum to more"):
        work.audit(sent, sent)


@pytest.mark.parametrize(("share", "passes"), [(0.9, True), (1.1, True), (0.75, False)])
def test_a_sum_of_steps_is_one_measure_of_each_entry(share: float, passes: bool) -> None:
    at = here(held=8, expected=1, algorithm="fedavg", mini_batch_size=1, local_epochs=80,
              learning_rate=0.05)  # fmt: skip
    work: Any = DPSGD(noise_multiplier=1.0).begin(at)
    work.record.norms.append(torch.ones(3))
    work.record.clean, work.record.entries = {"w": torch.zeros(400)}, 80 * 400
    # 80 steps of deviation 1 are one of sqrt(80); 400 entries tell it to 1 / sqrt(800), 3.5 %.
    signs = torch.tensor([1.0, -1.0]).repeat(200)
    sent = {"w": -0.05 * share * math.sqrt(80) * signs}
    if passes:
        assert work.audit(sent, sent)["noise_std"] == pytest.approx(share, rel=1e-5)
    else:
        with pytest.raises(DefenseFailed, match="the noise on the wire"):
            work.audit(sent, sent)


def test_a_training_without_a_gradient_is_refused() -> None:
    work = DPSGD(noise_multiplier=1.0).begin(here())
    with pytest.raises(DefenseFailed, match="name it before defenses that wrap the training"):
        work.wrap(lambda parameters, examples, generator: ({}, 0.0))


# The accountant


@pytest.mark.slow
def test_the_accountant_goes_over_the_rounds_a_client_took_part_in() -> None:
    defense, memories = DPSGD(noise_multiplier=1.3), []
    for rounds in (3, 1, 5):
        memory = Memory()
        for _ in range(rounds):
            memory = defense.begin(here(memory=memory)).keep()
        memories.append(memory)
    spent = defense.spent([*memories, Memory()])
    assert spent is not None
    assert spent.epsilon == prv(((1.3, 0.2, 5),), 1e-5) == spent.epsilons["prv"]
    assert spent.epsilons["rdp"] > spent.epsilon
    assert (spent.unit, spent.delta, spent.accountant) == ("example", 1e-5, "prv")
    assert spent.adjacency.startswith("zero-out: one example replaced by one without a gradient")
    assert spent.sampling == "poisson, rate 0.2"
    assert spent.composition == "5 steps in 5 rounds of the worst client"


def test_without_noise_or_rounds_there_is_no_guarantee() -> None:
    silent = DPSGD(noise_multiplier=0.0)
    assert silent.spent([silent.begin(here()).keep()]) is None
    hardly = DPSGD(noise_multiplier=1e-5)
    assert hardly.spent([hardly.begin(here()).keep()]) is None
    assert DPSGD(noise_multiplier=1.0).spent([Memory()]) is None
    assert math.isinf(silent.distance())


@pytest.mark.slow
def test_a_budget_stops_the_client() -> None:
    defense, memory = DPSGD(noise_multiplier=1.0, budget=3.0), Memory()
    rounds = 0
    with pytest.raises(ClientFailure, match=r"budget of epsilon 3 is spent after \d+ rounds"):
        while rounds < 100:
            memory = defense.begin(here(memory=memory)).keep()
            rounds += 1
    assert prv(((1.0, 0.2, rounds),), 1e-5) <= 3.0 < prv(((1.0, 0.2, rounds + 1),), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"noise_multiplier": 1.0}, {"target_epsilon": 1.0}])
def test_a_budget_below_one_round_is_refused(adapt: Adapt, how: dict[str, Any]) -> None:
    defense = DPSGD(budget=0.01, accountant="rdp", **how)
    with pytest.raises(BadInput, match=r"at least the epsilon of one round, [\d.]+, got 0.01"):
        defense.settle(setting(adapt("gpt2-tiny"), defense))


@pytest.mark.slow
def test_each_client_stays_within_the_target_whatever_it_holds(adapt: Adapt) -> None:
    defense = DPSGD(target_epsilon=4.0, accountant="rdp")
    held = (4, 5, 9, 40)  # a rate of 1, which is accounted otherwise, and three below
    settled = defense.settle(setting(adapt("gpt2-tiny"), defense, held=held))
    assert isinstance(settled, DPSGD) and settled.noise_multiplier is not None
    spent = [rdp(((settled.noise_multiplier, 4 / count, 5),), 1e-5) for count in held]
    assert 3.9 < max(spent) <= 4.0


@pytest.mark.slow
def test_a_target_gives_the_noise_that_meets_it(adapt: Adapt) -> None:
    defense = DPSGD(target_epsilon=1.0)
    settled = defense.settle(setting(adapt("gpt2-tiny"), defense, held=(120, 90)))
    assert isinstance(settled, DPSGD) and settled.noise_multiplier is not None
    # The client with 90 examples has the larger rate, 4 / 90; 5 rounds.
    spent = prv(((settled.noise_multiplier, 4 / 90, 5),), 1e-5)
    assert 0.975 < spent <= 1.0
    memory = Memory()
    for _ in range(5):
        memory = settled.begin(here(held=90, expected=4, memory=memory)).keep()
    with pytest.raises(ClientFailure, match="budget of epsilon 1 is spent after 5 rounds"):
        settled.begin(here(held=90, expected=4, memory=memory))
    with pytest.raises(ClientFailure, match="budget of epsilon 1 is spent after 0 rounds"):
        settled.begin(here(held=4, expected=4))  # fewer than was said
    with pytest.raises(DefenseFailed, match="was not settled"):
        defense.begin(here())


def test_its_bare_name_is_enough(adapt: Adapt) -> None:
    defense = DPSGD()  # in a sweep over defense=none,topk,dp-sgd
    assert defense.settle(setting(adapt("gpt2-tiny"), defense)) == DPSGD(noise_multiplier=1.0)


# Bad settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"noise_multiplier": 1.0, "target_epsilon": 1.0}, "got both"),
        ({"noise_multiplier": -0.1}, "noise_multiplier must be >= 0, got -0.1"),
        ({"target_epsilon": 0.0}, "target_epsilon must be > 0, got 0.0"),
        ({"noise_multiplier": 1.0, "budget": -1.0}, "budget must be > 0, got -1.0"),
        ({"noise_multiplier": 1.0, "clip": 0.0}, "clip must be > 0, got 0.0"),
        ({"noise_multiplier": 1.0, "delta": 1.0}, r"delta must be in \(0, 1\), got 1.0"),
        ({"noise_multiplier": 1.0, "sampling": "fixed"}, "sampling must be poisson, got 'fixed'"),
    ],
)
def test_bad_parameters_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DPSGD(**fields)


def test_a_delta_that_allows_to_publish_an_example_is_refused(adapt: Adapt) -> None:
    defense = DPSGD(noise_multiplier=1.0, delta=0.025)
    with pytest.raises(BadInput, match="delta must be below 1 / 40, the examples of a client"):
        defense.check(setting(adapt("gpt2-tiny"), defense))


def test_it_can_be_there_once(adapt: Adapt) -> None:
    defense = DPSGD(noise_multiplier=1.0)
    with pytest.raises(BadInput, match="dp-sgd can be there once"):
        defense.check(setting(adapt("gpt2-tiny"), defense, defense))


@pytest.mark.parametrize("first", [RandomMask(), Gaussian(), TopK(residual=True)])
def test_it_stands_before_what_changes_the_update(first: Defense, adapt: Adapt) -> None:
    defense, model = DPSGD(noise_multiplier=1.0), adapt("gpt2-tiny")
    with pytest.raises(BadInput, match="before what changes the update, got it after"):
        defense.check(setting(model, first, defense))
    defense.check(setting(model, LoRA(), SecAgg(), defense, first))


@pytest.mark.slow
def test_a_target_that_cannot_be_met_is_refused(adapt: Adapt) -> None:
    defense = DPSGD(target_epsilon=1e-9, delta=1e-12, accountant="rdp")
    with pytest.raises(BadInput, match="target_epsilon 1e-09 cannot be met in 5 steps"):
        defense.settle(setting(adapt("gpt2-tiny"), defense))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.BatchNorm1d(3), "extra is a batch norm, which mixes the examples"),
        (nn.PReLU(), "no rule for the gradients of PReLU"),
    ],
)
def test_modules_whose_examples_cannot_be_told_apart_are_refused(
    part: nn.Module, message: str, adapt: Adapt, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, defense = adapt("gpt2-tiny"), DPSGD(noise_multiplier=1.0)
    monkeypatch.setitem(model.module._modules, "extra", part)
    with pytest.raises(BadInput, match=message):
        defense.check(setting(model, defense))


def test_weights_that_maps_share_are_refused(adapt: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    model, defense = adapt("gpt2-tiny"), DPSGD(noise_multiplier=1.0)
    part = nn.Linear(192, 2, bias=False)
    part.weight = model.module.get_parameter("score.weight")
    monkeypatch.setitem(model.module._modules, "extra", part)
    with pytest.raises(BadInput, match="no rule for weights that Linear, Linear share"):
        defense.check(setting(model, defense))
