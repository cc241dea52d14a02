"""What is read of an update: sums by hand, places told apart, nothing of its scale."""

import pytest
import torch

from attacks.learned.features import Hashed, find_features, hashed, scaled
from tests.attacks.learned.scene import simulator, trained
from tests.conftest import Adapt

TEXT = (9, 700, 41, 800, 77, 1203)


def test_hashing_is_linear_and_its_bins_stay() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 1003, generator=generator)
    assert torch.allclose(hashed(a + b, 97), hashed(a, 97) + hashed(b, 97), atol=1e-5)
    alone = torch.stack([hashed(row, 97) for row in torch.eye(1003)])  # (N, bins)
    assert (alone.sum(1) == 1).all() and (alone.max(1).values == 1).all()  # one bin an entry
    assert torch.allclose(a @ alone, hashed(a, 97), atol=1e-4)


def test_an_updates_scale_says_nothing_and_zero_is_no_update() -> None:
    read = Hashed(11, 3)
    update = {"a": torch.randn(30, generator=torch.Generator().manual_seed(1))}
    one, other = (read({"a": size * update["a"]}) for size in (1e-4, 1e4))
    assert one is not None and other is not None
    assert torch.allclose(one.whole, other.whole, atol=1e-6)
    assert read({"a": torch.zeros(30)}) is None


def test_filters_give_what_each_place_was_told(adapt: Adapt) -> None:
    # the oracle is autograd: dL/d(a map's output) at each place, of texts no filter was made of
    model = adapt("breaching3-tiny", task="causal-lm")
    seen, update = trained(model, [TEXT])
    one = simulator(seen)
    generator = torch.Generator().manual_seed(2)
    probes = one.probes(torch.randint(2048, (64, 1, 6), generator=generator), generator)
    assert probes is not None
    found = find_features(probes, update, 6, 0.0, one.parts(), 0, 10_000)
    name = "transformer.layers.0.linear2.weight"
    factors = one.gradients(torch.tensor([[list(TEXT)]]), generator)
    told = factors.factors[name][0].errors[0]  # type: ignore[attr-defined]
    read = found.places[name](update[name])
    cosines = torch.nn.functional.cosine_similarity(read[:, None], told[None], dim=2)  # (T, T)
    assert (cosines.argmax(dim=1) == torch.arange(6)).all()
    places = "transformer.positions.weight"
    assert torch.equal(found.places[places](update[places]), update[places][:6])


def test_each_parameters_numbers_get_one_scale(adapt: Adapt) -> None:
    model = adapt("bert-tiny")
    seen, update = trained(model, [TEXT])
    one = simulator(seen)
    found = find_features(None, update, 6, 0.0, one.parts(), 0, 64)
    assert set(found.scales) == set()
    known = scaled(found, [update])
    read = known(update)
    assert read is not None
    assert read.whole.square().mean() == pytest.approx(1.0, rel=0.1)
    assert set(known.scales) == {*known.places, *known.others}


def test_tokens_whose_embedding_moved_are_marked(adapt: Adapt) -> None:
    model = adapt("bert-tiny")
    seen, update = trained(model, [TEXT])
    one = simulator(seen)
    read = find_features(None, update, 6, 0.0, one.parts(), 0, 64)(update)
    assert read is not None and set(TEXT) == set(read.words[0, : len(TEXT)].tolist())
    where = [read.words[0].tolist().index(token) for token in TEXT]
    alike = read.marks[0, :, :, 1]  # a token moves as its place's position does
    assert alike[:, : len(TEXT)].argmax(dim=1).tolist() == where
