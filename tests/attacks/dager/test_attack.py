"""DAGER on tiny random models: the oracle is the input itself, the gradient is plain autograd's."""

import math
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import Dager
from attacks.dager.spectrum import find_span
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Reconstruction
from fedsim.types import Tokens
from tests.attacks.scene import PRESETS, Scene, exact
from tests.conftest import Adapt, Gradient, Observe, Sentences


@pytest.fixture(params=PRESETS)
def scene(request: Any, adapt: Adapt, gradient: Gradient, observe: Observe) -> Scene:
    return Scene(adapt(request.param), gradient, observe)


@pytest.fixture
def gpt2(adapt: Adapt, gradient: Gradient, observe: Observe) -> Scene:
    return Scene(adapt("gpt2-tiny"), gradient, observe)


def blurred(guess: Reconstruction) -> bool:
    return bool(guess.diagnostics["blurred_0"] or guess.diagnostics["blurred_1"])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_sentence_is_found_exactly(scene: Scene, sentences: Sentences, count: int) -> None:
    truth = sentences(scene.model, count)
    assert sum(map(len, truth)) < scene.model.width - 20  # so theorem 5.1 promises it
    guess = scene.attack(scene.update(truth))
    assert sorted(guess.sequences) == sorted(truth)
    assert not blurred(guess) and not guess.diagnostics["cut"]


@pytest.mark.slow
@pytest.mark.parametrize("skip", [100, 200, 300, 400])
def test_other_sentences_are_found_as_well(scene: Scene, sentences: Sentences, skip: int) -> None:
    truth = sentences(scene.model, 4, skip=skip)
    assert sorted(scene.attack(scene.update(truth)).sequences) == sorted(truth)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_an_update_changes_nothing(
    scene: Scene, sentences: Sentences, scale: float
) -> None:
    update = scene.update(sentences(scene.model, 2))
    scaled = {name: scale * tensor for name, tensor in update.items()}
    assert scene.attack(scaled).sequences == scene.attack(update).sequences != ()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("count", [1, 4])
def test_updates_of_other_dtypes_are_read_as_well(
    scene: Scene, sentences: Sentences, dtype: torch.dtype, count: int
) -> None:
    truth = sentences(scene.model, count)
    update = {name: tensor.to(dtype) for name, tensor in scene.update(truth).items()}
    guess = scene.attack(update)
    assert sorted(guess.sequences) == sorted(truth)
    assert not blurred(guess)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "skip"), [(2, 0), (1, 1), (1, 23)])
def test_a_gradient_taken_in_float64_is_read_as_well(
    scene: Scene, sentences: Sentences, count: int, skip: int
) -> None:
    truth = sentences(scene.model, count, skip=skip)
    model, module = scene.model, scene.model.load(scene.parameters).double()
    try:
        loss: Any = 0.0
        for row, ids in enumerate(truth):
            label = torch.tensor([row % 2])
            loss = loss + module(input_ids=torch.tensor([ids]), labels=label).loss / len(truth)
        loss.backward()
        update = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    finally:
        module.zero_grad(set_to_none=True)
        model.module.float()
    assert update["score.weight"].dtype == torch.float64
    guess = scene.attack(update, max_pairs=20_000)
    assert sorted(guess.sequences) == sorted(truth)
    assert not blurred(guess)


@pytest.mark.parametrize("token", [300, 500, 1000])
def test_a_single_token_is_found(scene: Scene, token: int) -> None:
    truth = (*scene.model.prefix, token)
    guess = scene.attack(scene.update([truth]))
    assert guess.sequences == (truth,)


def test_a_single_token_has_rank_one(gpt2: Scene) -> None:
    guess = gpt2.attack(gpt2.update([(300,)]))
    assert (guess.diagnostics["rank_0"], guess.diagnostics["rank_1"]) == (1, 1)
    assert not blurred(guess)


def test_two_single_tokens_are_found(scene: Scene) -> None:
    truth = [(*scene.model.prefix, 300), (*scene.model.prefix, 700)]
    assert sorted(scene.attack(scene.update(truth)).sequences) == truth


def test_sentences_with_a_common_beginning_are_told_apart(
    scene: Scene, sentences: Sentences
) -> None:
    (sentence,) = sentences(scene.model, 1)
    truth = [(*sentence[:8], 400, 401), (*sentence[:8], 500, 501, 502), (*sentence[:5], 600)]
    assert sorted(scene.attack(scene.update(truth)).sequences) == sorted(truth)


def test_the_same_tokens_in_another_order_are_told_apart(scene: Scene) -> None:
    start = scene.model.prefix  # a cycle in the graph of tokens and positions (facts, 9.4)
    truth = [(*start, 400, 500, 600, 700), (*start, 500, 400, 700, 600), (*start, 800, 500, 600)]
    assert sorted(scene.attack(scene.update(truth)).sequences) == sorted(truth)


def test_a_token_that_repeats_is_found_as_often_as_it_stands_there(scene: Scene) -> None:
    start = scene.model.prefix
    truth = [(*start, 300, 300, 300, 400), (*start, 500, 600, 600)]
    assert sorted(scene.attack(scene.update(truth)).sequences) == truth


def test_equal_sentences_and_beginnings_of_others_are_found_as_often_as_they_were_there(
    scene: Scene, sentences: Sentences
) -> None:
    sentence, other = sentences(scene.model, 2)
    truth = [sentence, sentence, sentence[:6], other, other[:3], sentence]
    guess = scene.attack(scene.update(truth))
    assert sorted(guess.sequences) == sorted(truth)
    assert guess.diagnostics["counted"] and guess.diagnostics["explained"] > 0.999999


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("times", [(2, 0), (2, 2), (3, 3), (4, 2)])
def test_a_next_token_batch_in_which_all_repeat_may_be_fewer_and_texts_without_a_loss(
    adapt: Adapt,
    gradient: Gradient,
    observe: Observe,
    sentences: Sentences,
    preset: str,
    times: tuple[int, int],
) -> None:
    scene = Scene(adapt(preset, task="causal-lm"), gradient, observe)
    sentence, other = sentences(scene.model, 2)
    truth = [sentence] * times[0] + [other] * times[1]
    guess = scene.attack(scene.update(truth))
    assert sorted(guess.sequences) == sorted(truth)  # the likelier; one of each, and texts of one
    assert guess.diagnostics["best_effort"]  # token, have the same gradient
    assert guess.diagnostics["above_floor"] == len(truth) // math.gcd(*times)


@pytest.mark.slow
@pytest.mark.parametrize("examples", [0, 5, 10**9])
def test_a_wrong_number_of_examples_counts_nothing(
    scene: Scene, sentences: Sentences, examples: int
) -> None:
    sentence, other = sentences(scene.model, 2)
    update = scene.update([sentence, sentence, other])
    scene.examples = examples
    guess = scene.attack(update)
    assert sorted(guess.sequences) == sorted([sentence, other])
    assert guess.diagnostics["best_effort"] and not guess.diagnostics["counted"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_last_tokens_of_a_next_token_loss_are_read_off_the_last_mlp(
    adapt: Adapt,
    gradient: Gradient,
    observe: Observe,
    sentences: Sentences,
    preset: str,
    count: int,
) -> None:
    scene = Scene(adapt(preset, task="causal-lm"), gradient, observe)
    truth = sentences(scene.model, count)
    guess = scene.attack(scene.update(truth))
    assert sorted(guess.sequences) == sorted(truth)


def test_neither_embeddings_nor_head_nor_later_blocks_are_needed(
    scene: Scene, sentences: Sentences
) -> None:
    truth = sentences(scene.model, 2)
    needed = {weight.name for layer in (0, 1) for weight in scene.model.projections(layer)}
    update = {name: tensor for name, tensor in scene.update(truth).items() if name in needed}
    assert sorted(scene.attack(update).sequences) == sorted(truth)


@pytest.mark.parametrize("left", ["q_proj k_proj v_proj", "k_proj v_proj", "v_proj"])
def test_some_of_q_k_v_will_do(
    adapt: Adapt, gradient: Gradient, observe: Observe, sentences: Sentences, left: str
) -> None:
    scene = Scene(adapt("llama-tiny"), gradient, observe)
    truth = sentences(scene.model, 2)
    update = {
        name: tensor
        for name, tensor in scene.update(truth).items()
        if "self_attn" not in name or name.split(".")[-2] in left.split()
    }
    assert sorted(scene.attack(update).sequences) == sorted(truth)


def test_the_query_alone_never_sees_position_0(
    gpt2: Scene, sentences: Sentences, observe: Observe
) -> None:
    # a softmax over one key has a zero Jacobian, so dL/dQ at position 0 is exactly 0
    (truth,) = sentences(gpt2.model, 1)
    update = gpt2.update([truth])
    query, key, value = update[gpt2.model.projections(0)[0].name].chunk(3, dim=1)
    inputs = gpt2.model.trunks(gpt2.parameters, 0)[0].inputs(torch.tensor([truth]))[0][0]
    by_query = find_span([query]).distance(inputs)
    assert by_query[0] > 0.5 and by_query[1:].max() < 1e-3
    assert find_span([query, key, value]).distance(inputs).max() < 1e-3


def law(sequences: Sequence[Tokens], *, bias: bool) -> int:
    """Return the rank of layer 0's inputs of a GPT-2: min(pairs, t + p - c + bias) (facts, 9.2)."""
    pairs = {(f"token {token}", place) for ids in sequences for place, token in enumerate(ids)}
    component = {node: {node} for pair in pairs for node in pair}
    for token, place in pairs:
        joined = component[token] | component[place]
        for node in joined:
            component[node] = joined
    count = len({id(nodes) for nodes in component.values()})
    return min(len(pairs), len(component) - count + bias)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_the_rank_of_block_0_follows_the_law_and_that_of_block_1_counts_prefixes(
    gpt2: Scene, sentences: Sentences, count: int, bias: bool
) -> None:
    if bias:  # a fresh LayerNorm's is 0
        generator = torch.Generator().manual_seed(0)
        for name in ("transformer.h.0.ln_1.bias", "transformer.h.1.ln_1.bias"):
            gpt2.parameters[name] = torch.randn(192, generator=generator)
    truth = sentences(gpt2.model, count)
    guess = gpt2.attack(gpt2.update(truth))
    prefixes = {ids[: stop + 1] for ids in truth for stop in range(len(ids))}
    assert guess.diagnostics["rank_0"] == law(truth, bias=bias)
    assert guess.diagnostics["rank_1"] == len(prefixes)


def test_zeros_give_nothing(scene: Scene, sentences: Sentences) -> None:
    update = scene.update(sentences(scene.model, 2))
    guess = scene.attack({name: torch.zeros_like(tensor) for name, tensor in update.items()})
    assert guess.sequences == ()
    assert (guess.diagnostics["rank_0"], guess.diagnostics["pairs_checked"]) == (0, 0)
    assert guess.diagnostics["best_effort"] and not guess.diagnostics["counted"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_noise_gives_no_sentence(scene: Scene, sentences: Sentences, seed: int) -> None:
    truth, generator = sentences(scene.model, 2), torch.Generator().manual_seed(seed)
    update = {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in scene.update(truth).items()
    }
    guess = scene.attack(update)
    assert exact(guess, truth) == 0
    assert guess.sequences == () or blurred(guess)


def test_another_clients_update_gives_none_of_ones_own(scene: Scene, sentences: Sentences) -> None:
    mine, theirs = sentences(scene.model, 2), sentences(scene.model, 2, skip=50)
    guess = scene.attack(scene.update(theirs))
    assert exact(guess, mine) == 0 and exact(guess, theirs) == 2


def test_an_update_at_other_weights_than_were_sent_gives_nothing(
    scene: Scene, sentences: Sentences
) -> None:
    truth = sentences(scene.model, 2)
    update = scene.update(truth)
    generator = torch.Generator().manual_seed(1)
    scene.parameters = {
        name: torch.randn(tensor.shape, generator=generator) * 0.02
        for name, tensor in scene.parameters.items()
    }
    assert exact(scene.attack(update), truth) == 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, 16, 24])
def test_more_prefixes_than_dimensions_is_no_match_and_says_so(
    scene: Scene, sentences: Sentences, count: int
) -> None:
    truth = sentences(scene.model, count)
    assert len({ids[:stop] for ids in truth for stop in range(1, len(ids) + 1)}) > 192
    guess = scene.attack(scene.update(truth), max_pairs=20_000)
    assert exact(guess, truth) < count
    assert guess.sequences == () or blurred(guess)
    if count < 24:  # where there are far more, they look like noise
        assert guess.diagnostics["saturated_1"]


@pytest.mark.slow
def test_more_prefixes_than_dimensions_end_soon(scene: Scene, sentences: Sentences) -> None:
    update = scene.update(sentences(scene.model, 24))
    started = time.process_time()  # of this process alone: the machine may be shared
    guess = scene.attack(update)
    assert time.process_time() - started < 60.0  # aim: 10 s; the rest is for slow machines
    limit = Dager().max_pairs + Dager().max_prefixes * scene.model.vocabulary
    assert guess.diagnostics["pairs_checked"] <= limit


def test_a_search_that_dropped_prefixes_says_so(scene: Scene, sentences: Sentences) -> None:
    truth = sentences(scene.model, 4)
    guess = scene.attack(scene.update(truth), max_prefixes=1)
    assert len(guess.sequences) == 1 and exact(guess, truth) <= 1
    assert guess.diagnostics["cut"]


@pytest.mark.slow
def test_a_search_that_ran_out_of_pairs_says_so(scene: Scene, sentences: Sentences) -> None:
    truth = sentences(scene.model, 4)
    update = scene.update(truth)
    short, whole = scene.attack(update, max_pairs=1), scene.attack(update)
    assert short.diagnostics["cut"] and exact(short, truth) == 0
    assert short.diagnostics["pairs_checked"] < whole.diagnostics["pairs_checked"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_guess_and_inputs_come_back(
    scene: Scene, sentences: Sentences
) -> None:
    update = scene.update(sentences(scene.model, 2))
    kept = {name: tensor.clone() for name, tensor in update.items()}
    sent = {name: tensor.clone() for name, tensor in scene.parameters.items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = scene.attack(update, seed=7)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator plays no part
    torch.manual_seed(4)
    assert scene.attack(update, seed=7) == first
    assert all(torch.equal(update[name], tensor) for name, tensor in kept.items())
    assert all(torch.equal(scene.parameters[name], tensor) for name, tensor in sent.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["score.weight", "transformer.h.0.attn.c_attn.weight"])
def test_values_that_are_no_numbers_are_refused(gpt2: Scene, value: float, name: str) -> None:
    update = gpt2.update([(9, 10, 11)])
    update[name][0, 0] = value
    with pytest.raises(UnsupportedObservation, match=rf"'{name}' holds NaN or infinite values"):
        gpt2.attack(update)


def test_finite_values_whose_sum_overflows_are_not_refused(gpt2: Scene) -> None:
    update = gpt2.update([(9, 10, 11)])
    update["transformer.h.3.mlp.c_fc.weight"] = torch.full((192, 768), 3e38)
    assert gpt2.attack(update).sequences == ((9, 10, 11),)


def test_a_wrong_shape_is_refused(gpt2: Scene) -> None:
    name = "transformer.h.0.attn.c_attn.weight"
    update = gpt2.update([(9, 10, 11)])
    wanted = rf"update '{name}' must have shape \(192, 576\), got \(576, 192\)"
    with pytest.raises(UnsupportedObservation, match=wanted):
        gpt2.attack({**update, name: update[name].T})


def test_a_tensor_that_was_never_broadcast_is_refused(gpt2: Scene) -> None:
    update = gpt2.update([(9, 10, 11)])
    with pytest.raises(UnsupportedObservation, match=r"'h.9.w', which was never broadcast"):
        gpt2.attack({**update, "h.9.w": torch.ones(2)})


@pytest.mark.parametrize("layer", [0, 1])
def test_an_update_without_q_k_v_is_refused(scene: Scene, layer: int) -> None:
    gone = [weight.name for weight in scene.model.projections(layer)]
    first_mlp = [weight.name for weight in scene.model.projections(0, "middle")]
    update = scene.update([(9, 10, 11)])
    update = {k: v for k, v in update.items() if k not in gone and k not in first_mlp}
    wanted = rf"dager needs the update of at least one of {', '.join(gone)}; the update has none"
    with pytest.raises(UnsupportedObservation, match=wanted):
        scene.attack(update)


def test_block_1_is_not_needed_where_the_first_mlp_is_shown(
    scene: Scene, sentences: Sentences
) -> None:
    gone = [weight.name for weight in scene.model.projections(1)]
    truth = sentences(scene.model, 2)
    update = {k: v for k, v in scene.update(truth).items() if k not in gone}
    assert sorted(scene.attack(update).sequences) == sorted(truth)


def test_all_tokens_equal(scene: Scene) -> None:
    truth = [(*scene.model.prefix, 300, 300, 300)]
    guess = scene.attack(scene.update(truth))
    assert guess.sequences == tuple(truth)  # after a BOS, copies differ by what they attend to


@pytest.mark.slow
@pytest.mark.parametrize("gone", [(0, "hidden"), (0, "middle"), (1, "hidden")])
def test_inputs_that_stand_out_of_one_layer_alone_are_said_to_be_unread(
    scene: Scene, sentences: Sentences, gone: tuple[int, Any]
) -> None:
    truth = sentences(scene.model, 2)
    update = scene.update(truth)

    def without(*places: tuple[int, Any]) -> dict[str, Tensor]:
        names = {
            weight.name for layer, at in places for weight in scene.model.projections(layer, at)
        }
        return {n: torch.zeros_like(t) if n in names else t for n, t in update.items()}

    guess = scene.attack(without(gone))
    if gone == (0, "hidden"):
        assert guess.sequences == () and guess.diagnostics["rank_0"] == 0
        assert guess.diagnostics["unread"] and guess.diagnostics["above_floor"] == 0
    else:  # block 0's MLP and block 1 stand in for each other
        assert sorted(guess.sequences) == sorted(truth) and not guess.diagnostics["unread"]
    guess = scene.attack(without((0, "middle"), (1, "hidden")))
    assert guess.sequences == () and guess.diagnostics["rank_1"] == 0 < guess.diagnostics["rank_0"]
    assert guess.diagnostics["unread"]


def test_another_vocabulary_is_refused(gpt2: Scene, sentences: Sentences) -> None:
    update = gpt2.update(sentences(gpt2.model, 2))
    name = "transformer.wte.weight"
    update[name] = update[name][:2000]
    with pytest.raises(UnsupportedObservation, match=r"must have shape \(2048, 192\), got"):
        gpt2.attack(update)


@pytest.mark.parametrize("name", ["max_prefixes", "max_pairs", "max_searches"])
@pytest.mark.parametrize("value", [0, -5])
def test_limits_are_positive(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be > 0, got {value}"):
        Dager(**{name: value})


def test_every_family_is_taken_before_anything_starts(adapt: Adapt) -> None:
    for preset in (*PRESETS, "bert-tiny"):
        Dager().check(adapt(preset))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "Once upon a time there was a dog.",
        "The cat sat on the mat and ate a big red apple.",
        "Lily and Tom went to the park to play with a ball.",
    ],
)
def test_trained_weights_with_grouped_queries_are_read_as_well(
    shared: Any, gradient: Gradient, observe: Observe, text: str
) -> None:
    from fedsim.models import ModelSpec, load_adapter

    model = load_adapter(ModelSpec(name=str(shared("data/models/stories260K-hf"))))
    scene = Scene(model, gradient, observe)
    (ids,) = model.tokenizer([text])["input_ids"]
    assert len(ids) < model.width - 20
    assert scene.attack(scene.update([tuple(ids)])).sequences == (tuple(ids),)


@pytest.mark.slow
@pytest.mark.parametrize("skip", range(0, 40, 4))
def test_last_tokens_that_trained_weights_are_nearly_sure_of(
    shared: Any, gradient: Gradient, observe: Observe, skip: int
) -> None:
    from fedsim.models import ModelSpec, load_adapter

    name = str(shared("data/models/stories260K-hf"))
    model = load_adapter(ModelSpec(name=name, task="causal-lm"))
    text = "Once upon a time there was a little dog. He liked to play in the park all day long."
    ids = tuple(model.tokenizer(text)["input_ids"])[: 8 + skip]
    scene = Scene(model, gradient, observe)
    assert scene.attack(scene.update([ids])).sequences == (ids,)
