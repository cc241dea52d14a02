"""Gradients of dummies on models of types that no family file has: those of a client, exactly."""

from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from attacks.matching.engine import Engine
from attacks.matching.frame import find_frame
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Knowledge
from tests.conftest import Gradient, Observe, initial
from tests.fedsim.models.graph.tiny import tiny

TEXTS = ((5, 700, 801, 902, 6), (5, 1500, 333, 1201, 640, 6))


LEFT_OUT = {
    "mixtral": ("*experts*", "*mlp.gate.weight"),  # no linear maps
    "opt": ("*embed_positions*",),
    "deberta-v2": ("*rel_embeddings*", "*pos_*_proj*"),  # read relative positions, not the batch
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["gemma2", "falcon", "roberta", "albert", "mixtral", "opt", "deberta-v2"]
)
def test_the_true_embeddings_give_the_clients_gradient(
    kind: str, tmp_path: Path, gradient: Gradient, observe: Observe
) -> None:
    """ALBERT's one block runs three times: its gradients are sums."""
    model = tiny(tmp_path, kind)
    parameters = initial(model)
    update = gradient(model, parameters, TEXTS, [0, 1])
    granted = Knowledge(labels=(0, 1), lengths=tuple(map(len, TEXTS)))
    seen = observe(model, parameters, update, granted, examples=2)
    engine = Engine(seen, find_frame(seen, torch.Generator()), update)
    ids = torch.full((1, 2, 6), model.pad)
    for row, tokens in enumerate(TEXTS):
        ids[0, row, : len(tokens)] = torch.tensor(tokens)
    made = engine.factors(engine.embed(ids), torch.tensor([0, 1]), ids=ids)
    left = {n for n in update if any(fnmatch(n, part) for part in LEFT_OUT.get(kind, ()))}
    assert set(engine.left_out) == left and set(made) == set(update) - left
    for name, factor in made.items():
        wanted = update[name]
        apart = (factor.dense(wanted.shape)[0] - wanted).norm()
        assert apart < 1e-4 * wanted.norm() + 1e-7, name


def test_where_all_of_the_gradient_counts_nothing_is_left_out(
    tmp_path: Path, gradient: Gradient, observe: Observe
) -> None:
    model = tiny(tmp_path, "opt")
    parameters = initial(model)
    update = gradient(model, parameters, TEXTS[:1], [0])
    seen = observe(model, parameters, update, Knowledge(labels=(0,), lengths=(5,)))
    frame = find_frame(seen, torch.Generator())
    with pytest.raises(UnsupportedObservation, match=r"'.*embed_positions.weight' must belong"):
        Engine(seen, frame, whole=True)
