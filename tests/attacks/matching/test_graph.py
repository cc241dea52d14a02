"""Gradients of dummies on models of types that no family file has: those of a client, exactly."""

from pathlib import Path

import pytest
import torch

from attacks.matching.engine import Engine
from attacks.matching.frame import find_frame
from fedsim.messages import Knowledge
from tests.conftest import Gradient, Observe
from tests.fedsim.models.graph.tiny import tiny

TEXTS = ((5, 700, 801, 902, 6), (5, 1500, 333, 1201, 640, 6))


@pytest.mark.parametrize("kind", ["gemma2", "falcon", "roberta"])
def test_the_true_embeddings_give_the_clients_gradient(
    kind: str, tmp_path: Path, gradient: Gradient, observe: Observe
) -> None:
    model = tiny(tmp_path, kind)
    parameters = model.initial_parameters()
    update = gradient(model, parameters, TEXTS, [0, 1])
    granted = Knowledge(labels=(0, 1), lengths=tuple(map(len, TEXTS)))
    seen = observe(model, parameters, update, granted, examples=2)
    engine = Engine(seen, find_frame(seen, torch.Generator()), update)
    ids = torch.full((1, 2, 6), model.pad)
    for row, tokens in enumerate(TEXTS):
        ids[0, row, : len(tokens)] = torch.tensor(tokens)
    made = engine.factors(engine.embed(ids), torch.tensor([0, 1]), ids=ids)
    assert set(made) == set(update)
    for name, factor in made.items():
        wanted = update[name]
        apart = (factor.dense(wanted.shape)[0] - wanted).norm()
        assert apart < 1e-4 * wanted.norm() + 1e-7, name
