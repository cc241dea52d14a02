import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from fedsim.errors import MalformedMessage
from fedsim.local import LocalTraining
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.rng import global_stream
from fedsim.training import Examples, TrainingSettings, mean_gradient
from tests.clients.conftest import small

Named = dict[str, Tensor]

BATCH = Examples(  # 7 sequences of 2 to 11 tokens, 3 labels
    sequences=tuple(
        tuple(300 + (37 * row + 11 * at * at) % 1700 for at in range(length))
        for row, length in enumerate((5, 2, 11, 3, 7, 2, 8))
    ),
    labels=(0, 2, 1, 1, 0, 2, 0),
)
# transformers computes the next-token loss in float32 whatever the model is in: 1e-7 a step.
TOLERANCE = {"classification": 1e-9, "causal-lm": 1e-6}


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(adapter: ModelAdapter) -> Named:
    """The weights of round 1, moved a little from the model's own: they must be loaded."""
    noise = generator(3)
    return {
        name: p.detach() + 0.02 * torch.randn(p.shape, generator=noise, dtype=p.dtype)
        for name, p in adapter.module.named_parameters()
        if p.requires_grad
    }


def at(adapter: ModelAdapter, weights: Named) -> nn.Module:
    """A copy of the model at ``weights``, without dropout, for naive computations."""
    module: nn.Module = copy.deepcopy(adapter.module).eval()
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name in weights:
                p.copy_(weights[name])
    return module


def naive_loss(module: nn.Module, task: str, examples: Examples) -> Tensor:
    """The mean over examples (classification) or predicted tokens, one example at a time."""
    losses, count = [], 0
    for tokens, label in zip(examples.sequences, examples.labels, strict=True):
        logits = module(input_ids=torch.tensor([tokens])).logits[0]  # no padding, no mask
        if task == "classification":
            assert label is not None
            losses.append(-F.log_softmax(logits, -1)[label])
            count += 1
        else:
            for place in range(len(tokens) - 1):
                losses.append(-F.log_softmax(logits[place], -1)[tokens[place + 1]])
                count += 1
    return torch.stack(losses).sum() / count


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def agree(got: Named, expected: Named, tolerance: float = 1e-9) -> None:
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        assert tensor.shape == got[name].shape
        largest = max(tensor.abs().max().item() for tensor in expected.values())
        assert (got[name] - tensor).abs().max() <= tolerance * largest, name


# FedSGD: the gradient of the mean loss, against autograd on one example after the other


@pytest.mark.parametrize("task", TOLERANCE)
def test_fedsgd_uploads_the_gradient_of_the_mean_loss(task: str) -> None:
    adapter = small(task)
    weights = start(adapter)
    update, loss = LocalTraining(adapter, TrainingSettings())(weights, BATCH, generator())
    module = at(adapter, weights)
    expected = naive_loss(module, task, BATCH)
    gradients = torch.autograd.grad(expected, list(trained(module).values()))
    assert loss == pytest.approx(expected.item(), rel=TOLERANCE[task])
    agree(update, dict(zip(trained(module), gradients, strict=True)), TOLERANCE[task])


def test_fedsgd_of_a_masked_lm_predicts_the_masked_tokens_alone() -> None:
    adapter = small("masked-lm")
    weights = start(adapter)
    update, loss = LocalTraining(adapter, TrainingSettings())(weights, BATCH, generator(9))
    masked = adapter.batch(BATCH.sequences, BATCH.labels, generator(9))  # the same masks
    module = at(adapter, weights)
    losses = []
    for row, tokens in enumerate(BATCH.sequences):
        ids, targets = (masked[key][row, : len(tokens)] for key in ("input_ids", "labels"))
        logits = module(input_ids=ids[None]).logits[0]
        losses += [-F.log_softmax(logits[i], -1)[t] for i, t in enumerate(targets) if t >= 0]
    expected = torch.stack(losses).sum() / len(losses)
    gradients = torch.autograd.grad(expected, list(trained(module).values()), allow_unused=True)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    named = zip(trained(module).items(), gradients, strict=True)
    agree(update, {name: torch.zeros_like(p) if g is None else g for (name, p), g in named})


def test_the_gradient_is_zero_where_the_loss_does_not_reach() -> None:
    adapter = small()
    adapter.module.register_parameter("lonely", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    update, _ = LocalTraining(adapter, TrainingSettings())(start(adapter), BATCH, generator())
    assert torch.equal(update["lonely"], torch.zeros(3, dtype=torch.float64))
    used = {token for tokens in BATCH.sequences for token in tokens}
    moved = update["transformer.wte.weight"].abs().sum(dim=1).nonzero().flatten()
    assert set(moved.tolist()) == used  # an untied embedding: rows of other tokens are zero
    assert not update["transformer.wpe.weight"][11:].any()  # and positions after the longest


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_frozen_weights_stay_and_do_not_travel(algorithm: Any) -> None:
    adapter = small(freeze=("embeddings", "layers.0"))
    frozen = {n: p.detach().clone() for n, p in adapter.module.named_parameters()}
    weights = start(adapter)
    how = TrainingSettings(algorithm=algorithm, learning_rate=0.5)
    update, _ = LocalTraining(adapter, how)(weights, BATCH, generator())
    assert set(update) == set(weights)
    assert not any("wte" in name or ".h.0." in name for name in update)
    for name, p in adapter.module.named_parameters():
        if name not in update:
            assert torch.equal(p, frozen[name])
            assert p.grad is None


# FedAvg: what the weights moved by, against steps written out


def sgd(rate: float) -> Callable[[Tensor, Tensor, dict[str, Any]], Tensor]:
    return lambda w, g, state: w - rate * g


def momentum(rate: float) -> Callable[[Tensor, Tensor, dict[str, Any]], Tensor]:
    def step(w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
        v: Tensor = 0.9 * state["v"] + g if "v" in state else g  # torch's: no dampening
        state["v"] = v
        return w - rate * v

    return step


def adamw(rate: float) -> Callable[[Tensor, Tensor, dict[str, Any]], Tensor]:
    """Loshchilov & Hutter, ICLR 2019, algorithm 2, with torch's decay of 0.01."""

    def step(w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
        state["t"] = state.get("t", 0) + 1
        state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
        state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g * g
        m: Tensor = state["m"] / (1 - 0.9 ** state["t"])
        v: Tensor = state["v"] / (1 - 0.999 ** state["t"])
        return w - rate * 0.01 * w - rate * m / (v.sqrt() + 1e-8)

    return step


STEPS = {"sgd": sgd, "momentum": momentum, "adamw": adamw}


def naive_fedavg(
    adapter: ModelAdapter, weights: Named, how: TrainingSettings, task: str
) -> tuple[Named, list[list[float]]]:
    """McMahan et al.'s ClientUpdate, step by step; the delta and the losses of each epoch."""
    step, order = STEPS[how.optimizer](how.learning_rate), generator()
    now = {name: w.clone() for name, w in weights.items()}
    states: dict[str, dict[str, Any]] = {name: {} for name in now}
    epochs: list[list[float]] = []
    for _ in range(how.local_epochs):
        rows = torch.randperm(len(BATCH), generator=order).tolist()
        epochs.append([])
        while rows:
            some, rows = BATCH.take(rows[: how.mini_batch_size]), rows[how.mini_batch_size :]
            module = at(adapter, now)
            loss = naive_loss(module, task, some)
            epochs[-1].append(loss.item())
            gradients = torch.autograd.grad(loss, list(trained(module).values()))
            for name, g in zip(trained(module), gradients, strict=True):
                pulled = g + how.proximal_mu * (now[name] - weights[name])
                now[name] = step(now[name], pulled, states[name])
    return {name: now[name] - weights[name] for name in now}, epochs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "rate", "epochs", "size"),
    [
        ("sgd", 0.3, 2, 3),  # 3 + 3 + 1 examples, twice
        ("momentum", 0.05, 2, 3),
        ("adamw", 0.01, 2, 3),
        ("sgd", 0.3, 1, 7),  # the whole batch in one step
        ("sgd", 0.3, 1, 100),  # more than there are
        ("adamw", 0.01, 3, 1),  # one example a step
    ],
)
def test_fedavg_uploads_what_the_weights_moved_by(
    optimizer: Any, rate: float, epochs: int, size: int
) -> None:
    adapter = small()
    weights = start(adapter)
    how = TrainingSettings(
        algorithm="fedavg",
        optimizer=optimizer,
        learning_rate=rate,
        local_epochs=epochs,
        mini_batch_size=size,
    )
    update, loss = LocalTraining(adapter, how)(weights, BATCH, generator())
    expected, losses = naive_fedavg(adapter, weights, how, "classification")
    # Adam divides by sqrt(v): where a gradient is nearly 0, rounding of 1e-16 counts for more.
    agree(update, expected, 1e-6 if optimizer == "adamw" else 1e-9)
    assert len(losses[-1]) == math.ceil(7 / size)
    assert loss == pytest.approx(sum(losses[-1]) / len(losses[-1]), rel=1e-6)  # of the last epoch


def test_fedavg_of_next_token_prediction() -> None:
    adapter = small("causal-lm")
    weights = start(adapter)
    how = TrainingSettings(algorithm="fedavg", learning_rate=0.3, local_epochs=2, mini_batch_size=4)
    update, _ = LocalTraining(adapter, how)(weights, BATCH, generator())
    expected, _ = naive_fedavg(adapter, weights, how, "causal-lm")
    agree(update, expected, TOLERANCE["causal-lm"])


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_the_proximal_term_pulls_back_to_the_broadcast(optimizer: Any) -> None:
    adapter = small()
    weights = start(adapter)
    how = TrainingSettings(
        algorithm="fedavg",
        optimizer=optimizer,
        learning_rate=0.1,
        local_epochs=2,
        mini_batch_size=3,
        proximal_mu=0.7,
    )
    update, loss = LocalTraining(adapter, how)(weights, BATCH, generator())
    expected, losses = naive_fedavg(adapter, weights, how, "classification")
    agree(update, expected)
    assert loss == pytest.approx(sum(losses[-1]) / 3, rel=1e-9)  # reported without the term
    free, _ = LocalTraining(
        adapter,
        TrainingSettings(**{**vars(how), "proximal_mu": 0.0}),
    )(weights, BATCH, generator())
    far = sum(t.square().sum() for t in free.values())
    assert sum(t.square().sum() for t in update.values()) < far


def test_one_step_of_plain_sgd_is_the_gradient_times_the_rate() -> None:
    adapter = small()
    weights = start(adapter)
    gradient, _ = LocalTraining(adapter, TrainingSettings())(weights, BATCH, generator())
    how = TrainingSettings(algorithm="fedavg", learning_rate=0.25, mini_batch_size=7)
    delta, _ = LocalTraining(adapter, how)(weights, BATCH, generator())
    agree(delta, {name: -0.25 * g for name, g in gradient.items()})


def test_each_epoch_takes_every_example_once_in_a_new_order() -> None:
    adapter = small()
    taken: list[tuple[int, ...]] = []

    def watched(
        module: nn.Module, model: ModelAdapter, some: Examples, g: torch.Generator
    ) -> float:
        taken.extend(some.sequences)
        return mean_gradient(module, model, some, g)

    how = TrainingSettings(algorithm="fedavg", local_epochs=3, mini_batch_size=2)
    LocalTraining(adapter, how, watched)(start(adapter), BATCH, generator())
    epochs = [taken[place : place + 7] for place in (0, 7, 14)]
    assert len(taken) == 21
    assert all(sorted(epoch) == sorted(BATCH.sequences) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("steps", "sizes"), [(3, [2, 2, 2]), (6, [2, 2, 2, 1, 2, 2])])
def test_local_steps_go_on_as_epochs_do_and_end_where_they_are_all(
    steps: int, sizes: list[int]
) -> None:
    """Against a loop that draws the same orders: an epoch of 7 examples is 4 steps of 2."""
    taken: list[tuple[tuple[int, ...], ...]] = []

    def watched(
        module: nn.Module, model: ModelAdapter, some: Examples, g: torch.Generator
    ) -> float:
        taken.append(some.sequences)
        return mean_gradient(module, model, some, g)

    adapter, draw = small(), generator()
    how = TrainingSettings(algorithm="fedavg", local_epochs=9, max_steps=steps, mini_batch_size=2)
    LocalTraining(adapter, how, watched)(start(adapter), BATCH, generator())
    orders = [torch.randperm(7, generator=draw).tolist() for _ in range(2)]
    rows = [order[at : at + 2] for order in orders for at in (0, 2, 4, 6)][:steps]
    assert [len(some) for some in taken] == sizes
    assert taken == [tuple(BATCH.sequences[row] for row in some) for some in rows]


# Dropout, and the workspace


def updates(dropout: bool, seeds: Sequence[int]) -> list[Named]:
    adapter = small()
    weights = start(adapter)
    made = []
    for seed in seeds:
        with global_stream(seed, "dropout"):
            training = LocalTraining(adapter, TrainingSettings(dropout=dropout))
            made.append(training(weights, BATCH, generator())[0])
    return made


def test_dropout_follows_the_global_stream() -> None:
    first, again, other = updates(True, (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_without_dropout_the_global_stream_does_not_matter() -> None:
    first, other = updates(False, (1, 2))
    assert all(torch.equal(first[name], other[name]) for name in first)
    (dropped,) = updates(True, (1,))
    assert any(not torch.equal(first[name], dropped[name]) for name in first)


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_workspace_is_left_clean(algorithm: Any, fails: bool) -> None:
    adapter = small()
    weights = start(adapter)
    kept = {name: w.clone() for name, w in weights.items()}
    how = TrainingSettings(algorithm=algorithm, dropout=True, mini_batch_size=3)
    wrong = Examples(sequences=BATCH.sequences, labels=(0, 0, 0, 0, 0, 0, 9))  # of 3 labels
    if fails:
        with pytest.raises(IndexError, match="Target 9 is out of bounds"):
            LocalTraining(adapter, how)(weights, wrong, generator())
    else:
        LocalTraining(adapter, how)(weights, BATCH, generator())
    assert not any(module.training for module in adapter.module.modules())
    assert all(p.grad is None for p in adapter.module.parameters())
    assert all(torch.equal(weights[name], kept[name]) for name in kept)  # and the broadcast


def test_what_a_client_gets_does_not_depend_on_what_the_workspace_held() -> None:
    adapter = small()
    weights = start(adapter)
    how = TrainingSettings(algorithm="fedavg", learning_rate=0.5, optimizer="momentum")
    first, _ = LocalTraining(adapter, how)(weights, BATCH, generator())
    again, _ = LocalTraining(adapter, how)(weights, BATCH, generator())
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_update_is_no_view_of_the_workspace() -> None:
    for algorithm in ("fedsgd", "fedavg"):
        adapter = small()
        weights = start(adapter)
        how = TrainingSettings(algorithm=algorithm)
        update, _ = LocalTraining(adapter, how)(weights, BATCH, generator())
        kept = {name: t.clone() for name, t in update.items()}
        LocalTraining(adapter, how)(weights, BATCH.take([0]), generator())
        assert all(torch.equal(update[name], kept[name]) for name in kept)


# Odds and ends


def test_an_unknown_optimizer_is_never_a_setting() -> None:
    with pytest.raises(MalformedMessage, match=r"training\.optimizer must be .*'lion'"):
        TrainingSettings(optimizer="lion")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "warmup", "dtype"),
    [
        ("constant", 0, "float32"),
        ("constant", 2, "float32"),
        ("linear", 1, "float32"),
        ("cosine", 2, "bfloat16"),
    ],
)
def test_steps_are_those_of_transformers_trainer(
    scheduler: Any, warmup: int, dtype: Any, tmp_path: Path
) -> None:
    model = load_adapter(ModelSpec(name="builtin:llama-tiny", task="causal-lm"))
    rows = [tuple(300 + 7 * row + place for place in range(8)) for row in range(12)]
    how = TrainingSettings(
        algorithm="fedavg", optimizer="adamw", learning_rate=1e-2, mini_batch_size=4,
        local_epochs=2, max_grad_norm=0.3, lr_scheduler=scheduler, warmup_steps=warmup,
        weight_decay=0.02, compute_dtype=dtype,
    )  # fmt: skip
    weights = model.initial_parameters()
    steps = tuple(tuple(range(first, first + 4)) for first in (0, 4, 8, 0, 4, 8))
    examples = Examples(sequences=tuple(rows), labels=(None,) * 12, steps=steps)
    delta, _ = LocalTraining(model, how)(weights, examples, torch.Generator())

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(rows)

    module = model.load(weights)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=4,
        learning_rate=1e-2, lr_scheduler_type=scheduler if scheduler != "constant" or not warmup
        else "constant_with_warmup", warmup_steps=warmup, max_grad_norm=0.3, weight_decay=0.02,
        use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no",
        bf16=dtype == "bfloat16",
    )  # fmt: skip
    batches = [{"input_ids": list(row), "labels": list(row)} for row in rows]
    decayed = InOrder(model=module.eval(), args=arguments, train_dataset=batches)
    # transformers spares biases and norms the decay; a client's AdamW, as torch has it, does not
    decayed.optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.02)
    decayed.train()
    for name, parameter in module.named_parameters():
        moved = parameter.detach() - weights[name]
        assert torch.allclose(delta[name], moved, atol=2e-5), name
