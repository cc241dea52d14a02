"""Networks and their training: sets without order, the same again, checkpoints, sources of text."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.learned import Curriculum, Job, Source, inverter_of
from attacks.learned import training as module
from attacks.learned.decoder import Decoder, PaperNetwork, RowNetwork
from attacks.learned.features import Seen
from attacks.learned.matched import matched_loss, most
from attacks.learned.shape import Shape
from fedsim.errors import UnsupportedObservation
from tests.attacks.learned.scene import simulator, trained
from tests.conftest import Adapt

TEXT = (9, 700, 41, 800)
RECIPE = Curriculum(
    network="rows", samples=24, passes=1, batch_size=8, learning_rate=1e-3, width=8, features=64,
    hashing=0.1,
)  # fmt: skip


class Fixed(Decoder):
    """Logits that are given."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given

    def states(self, seen: Seen) -> Tensor:
        return self.given

    def logits(self, states: Tensor, seen: Seen, words: Tensor | None) -> Tensor:
        return states if words is None else states[..., words]


def shown(count: int = 2, length: int = 4) -> Seen:
    return Seen(
        torch.randn(count, length, 5),
        torch.randn(count, 7),
        torch.tensor([[3, 8]] * count),
        torch.randn(count, length, 2, 2),
    )


def test_the_loss_of_a_set_is_that_of_its_best_order() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 3, 4, 11, generator=generator)  # N, B, T, V
    texts = torch.randint(11, (3, 3, 4), generator=generator)
    naive = []
    for update in range(3):
        orders = []
        for order in itertools.permutations(range(3)):
            pairs = zip(logits[update], texts[update][list(order)], strict=True)
            nats = [torch.nn.functional.cross_entropy(guess, true) for guess, true in pairs]
            orders.append(torch.stack(nats).mean())
        naive.append(torch.stack(orders).min())
    network, seen = Fixed(logits), shown()
    assert torch.allclose(matched_loss(network, seen, texts, None), torch.stack(naive).mean())
    assert torch.allclose(
        matched_loss(network, seen, texts, torch.arange(11)), torch.stack(naive).mean()
    )
    assert most(torch.tensor([[0.9, 0.8], [0.7, 0.1]])) == pytest.approx(1.5)


def test_sampled_logits_are_columns_of_the_whole() -> None:
    seen, words = shown(), torch.tensor([1, 3, 8, 9])
    rows = RowNetwork(seen, 2, 6, torch.randn(11, 5), torch.randn(11))
    for network in (rows, PaperNetwork(seen, 2, 11)):
        states = network.states(seen)
        whole, some = network.logits(states, seen, None), network.logits(states, seen, words)
        assert whole.shape == (2, 2, 4, 11)
        assert torch.allclose(whole[..., words], some, atol=1e-5)


def test_the_papers_network_has_its_size() -> None:
    # 110,083 bins, 16 places, 50,257 tokens: 66.05 + 9.62 + 50.31 million, by its code
    with torch.device("meta"):
        seen = Seen(*(torch.empty(size) for size in ((1, 16, 0), (1, 110_083), (1, 0), (0,))))
        network = PaperNetwork(seen, 1, 50_257)
    assert sum(p.numel() for p in network.parameters()) == (
        (110_083 + 1) * 600 + (600 + 1) * 16_000 + (1000 + 1) * 50_257
    )


def job(adapt: Adapt, folder: str = "", **effects: Any) -> Job:
    model = adapt("breaching3-tiny", task="causal-lm")
    seen, _ = trained(model, [TEXT])
    return Job.of(simulator(seen), Source(model, "", "aux"), RECIPE, folder)


def test_a_training_that_was_killed_comes_to_the_same_weights(
    adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    inverter_of.cache_clear()
    whole = inverter_of(job(adapt))
    assert inverter_of(job(adapt)) is whole  # clients of a round share one
    inverter_of.cache_clear()
    chunks = []

    def killed(self: Any, *given: Any) -> None:
        chunks.append(given[3])
        if len(chunks) == 2:
            raise KeyboardInterrupt
        train(self, *given)

    train = module.Trainer._train
    monkeypatch.setattr(module.Trainer, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        inverter_of(job(adapt, str(tmp_path)))
    again = inverter_of(job(adapt, str(tmp_path)))
    assert chunks == [0, 1, 1, 2]
    assert _same(again.network, whole.network) and again.accuracy == whole.accuracy
    inverter_of.cache_clear()
    kept = inverter_of(job(adapt, str(tmp_path)))
    assert len(chunks) == 4 and _same(kept.network, whole.network)
    assert kept.accuracy == whole.accuracy
    inverter_of.cache_clear()


def _same(one: Decoder, other: Decoder) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_file_that_is_no_checkpoint_is_refused(adapt: Adapt, tmp_path: Path) -> None:
    inverter_of.cache_clear()
    one = job(adapt, str(tmp_path))
    one.path.write_bytes(b"no checkpoint")
    with pytest.raises(UnsupportedObservation, match="cannot be read, remove it"):
        inverter_of(one)


def test_other_weights_are_another_job(adapt: Adapt) -> None:
    one, other = job(adapt), job(adapt)
    assert one == other and hash(one) == hash(other)
    model = adapt("breaching3-tiny", task="causal-lm", seed=2)
    seen, _ = trained(model, [TEXT])
    assert Job.of(simulator(seen), Source(model, "", "aux"), RECIPE, "") != one


def test_windows_come_from_the_text_and_the_held_out_ones_from_its_end(
    adapt: Adapt, tmp_path: Path
) -> None:
    model, path = adapt("bert-tiny"), tmp_path / "aux.txt"
    lines = [f"the {word} letter of {word} things\n" for word in "abcdefghij" * 9]
    path.write_text("".join(lines) + "\n" + "held out at the end of all " * 30)
    source, shape = Source(model, str(path), "aux"), Shape((9, 7))
    encode = model.tokenizer
    known = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    rows = encode(known, add_special_tokens=False)["input_ids"]
    stream = [token for row in rows for token in row]
    windows = {tuple(stream[at : at + size]) for at in range(len(stream)) for size in (5, 7)}
    late = {tuple(stream[at : at + 7]) for at in range(int(0.85 * len(stream)), len(stream))}
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        first, second = source.draw(shape, generator)
        assert (int(first[0]), int(first[-1]), int(second[6]), int(second[7])) == (5, 6, 6, -1)
        assert {tuple(first[1:-1].tolist()), tuple(second[1:6].tolist())} <= windows
        assert tuple(source.draw(shape, generator, held_out=True)[0][1:-1].tolist()) in late


def test_unigram_tokens_come_as_often_as_in_the_text(adapt: Adapt, tmp_path: Path) -> None:
    model, path = adapt("bert-tiny"), tmp_path / "aux.txt"
    path.write_text("a a a a a a a a a b\n" * 500)
    source = Source(model, str(path), "unigram")
    drawn = source.draw(Shape((1002,)), torch.Generator().manual_seed(1))[0, 1:-1]
    (b,) = model.tokenizer(" b", add_special_tokens=False)["input_ids"]
    assert float((drawn == b).float().mean()) == pytest.approx(0.1, abs=0.04)
    assert source.log_unigram.exp().sum() == pytest.approx(1.0, abs=1e-4)


def test_a_text_that_is_too_short_is_refused(adapt: Adapt, tmp_path: Path) -> None:
    path = tmp_path / "aux.txt"
    path.write_text("too short\n")
    source = Source(adapt("bert-tiny"), str(path), "aux")
    with pytest.raises(UnsupportedObservation, match="is too short"):
        source.draw(Shape((9,)), torch.Generator())
    path = tmp_path / "none.txt"
    path.write_text("\n \n")
    with pytest.raises(UnsupportedObservation, match="holds no text"):
        Source(adapt("bert-tiny"), str(path), "aux").draw(Shape((9,)), torch.Generator())


def test_lengths_of_one_step_share_a_shape() -> None:
    short, long = (Shape((n,)).together(8, 64) for n in (9, 16))
    assert short == long == Shape((16,), 7)
    assert Shape((16,)).together(1, 64) == Shape((16,))
    assert Shape((63,)).together(8, 60) == Shape((60,), 7)
    assert Shape((3, 12)).together(8, 64) == Shape((16, 16), 13)
    generator = torch.Generator().manual_seed(1)
    drawn = {long.drawn(11, generator)[0] for _ in range(200)}
    assert drawn == set(range(11, 17))
    assert Shape((5, 3)).drawn(1, generator) == (5, 3)
