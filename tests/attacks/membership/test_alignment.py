"""The statistics of texts' gradients, against plain algebra and autograd."""

import pytest
import torch
from torch.nn import functional

from attacks.membership.alignment import FLOOR, RIDGE, SIDES, statistics
from attacks.membership.features import SIDE, gradients, sites_of
from attacks.membership.texts import fingerprint, parts, twins
from fedsim.messages import Texts
from fedsim.models import ModelSpec, load_adapter
from tests.attacks.conftest import random_texts
from tests.conftest import initial


def root(covariance: torch.Tensor) -> torch.Tensor:
    """The inverse root, by the eigenvalues."""
    values, vectors = torch.linalg.eigh(covariance)
    inverse: torch.Tensor = vectors @ torch.diag((values + SIDES * values.mean()).rsqrt())
    made: torch.Tensor = inverse @ vectors.T
    return made


@pytest.mark.parametrize("batch_size", [None, 3])
def test_the_statistic_is_the_matched_filter_of_whitened_gradients(batch_size: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(17, 5, 4, generator=generator, dtype=torch.float64)
    sent = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    known = [0, 2, 3, 5, 8, 9, 11, 12, 14]
    public = made[known]
    mean = sum(public) / len(known)
    if batch_size is None:
        scale = torch.ones(5, 4, dtype=torch.float64)
    else:  # Adam divides by the root of the mean square of a batch's gradient
        scale = (mean**2 + ((public - mean) ** 2).sum(0) / 8 / batch_size).sqrt()
        scale = scale.clamp_min(FLOOR * float(scale.median()))
    centred = (made - mean) / scale
    centred = centred / centred[known].pow(2).mean().sqrt()
    left = root(sum(x @ x.T for x in centred[known]))
    right = root(sum((left @ x).T @ (left @ x) for x in centred[known]))
    white = torch.stack([left @ x @ right for x in centred])
    size = white[known].pow(2).mean().sqrt()
    white, target = (white / size).flatten(1), (left @ sent @ right / size).flatten()
    square = (white[known] ** 2).sum(1).mean()
    spread = white[known].T @ white[known] + RIDGE * square * torch.eye(20, dtype=torch.float64)
    inverse = torch.linalg.inv(spread)
    wanted = [target @ inverse @ a / (a @ inverse @ a).sqrt() for a in white]
    found, unlike = statistics([made], [sent], known, batch_size=batch_size)
    ratio = found[:, 0] / torch.stack(wanted)
    assert torch.allclose(ratio, ratio[0].expand(17), rtol=1e-6) and ratio[0] > 0
    ridge = RIDGE * square
    shares = torch.stack([ridge * (a @ inverse @ a) / (a @ a) for a in white])  # Woodbury
    assert torch.allclose(unlike[:, 0], shares, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "rank"),
    [("gpt2-tiny", "causal-lm", 0), ("bert-tiny", "classification", 4),
     ("llama-tiny", "causal-lm", 4)],
)  # fmt: skip
def test_a_texts_gradient_is_autograds(name: str, task: str, rank: int) -> None:
    model = load_adapter(ModelSpec(name=f"builtin:{name}", task=task, lora_rank=rank))  # type: ignore[arg-type]
    weights = {key: tensor.clone() for key, tensor in initial(model).items()}
    for key in weights:
        if ".lora_B." in key:  # else A's gradient is zero
            weights[key] = torch.randn(weights[key].shape, generator=torch.Generator()) / 50
    rows = random_texts(model, (9, 14, 7))
    texts = Texts(sequences=tuple(rows), labels=(0, 1, 1))
    generator = torch.Generator().manual_seed(0)
    sites = sites_of(model, weights, generator)
    assert all((".lora_B." in site.name) == bool(rank) for site in sites) and len(sites) > 5
    for summed in (False, True):
        made = gradients(model, weights, texts, sites, summed=summed)
        for row in range(3):
            module = model.load(weights).eval()
            module.zero_grad()
            batch = model.batch(rows[row : row + 1], [texts.labels[row]], torch.Generator())
            logits, labels = (
                module(**{k: v for k, v in batch.items() if k != "labels"}).logits,
                batch["labels"],
            )
            if task == "causal-lm":
                logits, labels = logits[0, :-1], labels[0, 1:]
            how = "sum" if summed else "mean"
            functional.cross_entropy(logits, labels, reduction=how).backward()
            own = dict(module.named_parameters())
            for site, part in zip(sites, made, strict=True):
                gradient = own[site.name].grad
                assert gradient is not None
                wanted = site.drawn(gradient)
                assert torch.allclose(part[row], wanted, atol=1e-4 * float(wanted.abs().max()))
        module.zero_grad(set_to_none=True)


def test_long_sides_are_drawn_together_and_inner_products_stay() -> None:
    model = load_adapter(ModelSpec(name="builtin:gpt2-tiny"))
    sites = sites_of(model, initial(model), torch.Generator().manual_seed(0))
    site = next(site for site in sites if site.name.endswith("c_fc.weight"))
    assert site.flipped and site.drawn(initial(model)[site.name]).shape == (SIDE, SIDE)
    for side in site.sketch:
        assert side is not None
        assert torch.allclose(side.T @ side, torch.eye(SIDE), atol=1e-5)


def test_a_fingerprint_hangs_on_every_weight_and_text() -> None:
    texts = Texts(sequences=((1, 2),), labels=(0,))
    weights = {"a": torch.zeros(3), "b": torch.ones(2)}
    first = fingerprint(weights, texts)
    assert first == fingerprint({"b": torch.ones(2), "a": torch.zeros(3)}, texts)
    assert first != fingerprint({**weights, "a": torch.tensor([0.0, 0.0, 1e-9])}, texts)
    assert first != fingerprint(weights, Texts(sequences=((1, 2),), labels=(1,)))
    assert 0 <= first < 2**63


def test_parts_are_disjoint_and_all() -> None:
    some = parts(range(100))
    assert (*some.known, *some.null) == tuple(range(100)) and len(some.null) == 25


def test_a_twin_differs_in_one_token_that_is_not_special() -> None:
    model = load_adapter(ModelSpec(name="builtin:bert-tiny"))
    rows = random_texts(model, (9, 6, 12))
    texts = Texts(sequences=tuple(rows), labels=(0, 1, 0))
    made = twins(model, texts, torch.Generator().manual_seed(3))
    assert made.labels == texts.labels
    for twin, tokens in zip(made.sequences, rows, strict=True):
        changed = [a for a, b in zip(tokens, twin, strict=True) if a != b]
        assert len(changed) == 1 and changed[0] not in model.special
