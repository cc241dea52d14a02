"""The target of "Learning to Invert": its size by the paper, its blocks by torch's own layer."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import Adapt

VECTORS = ("linear1", "linear2", "norm1", "norm2")


def test_1_100_832_parameters_train(adapt: Adapt) -> None:
    # Wu et al.: 1.1e6; by hand 3 (4 (96² + 96) + 2 x 96 x 1536 + 1632 + 384) + 98,304
    sizes = {}
    for preset in ("breaching3", "breaching3-causal"):
        model = adapt(preset, task="causal-lm")
        sizes[preset] = sum(one.numel() for one in model.initial_parameters().values())
        assert model.causal is (preset != "breaching3")
        names = model.trainable()
        assert not [name for name in names if "encoder" in name or "decoder" in name]
        whole: Any = model.module
        assert whole.decoder.weight is whole.transformer.encoder.weight
        assert whole.transformer.encoder.weight.abs().max() <= 0.1
        assert float(whole.transformer.positions.weight.detach().std()) == pytest.approx(
            1.0, abs=0.01
        )
        first, last = whole.transformer.layers[0], whole.transformer.layers[2]
        assert torch.equal(first.linear1.weight, last.linear1.weight)
    assert set(sizes.values()) == {1_100_832}


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_computes_what_torchs_layer_does(adapt: Adapt, causal: bool) -> None:
    whole: Any = adapt("breaching3-tiny", task="causal-lm").module
    ours, width = whole.transformer.layers[0], 48
    theirs = nn.TransformerEncoderLayer(width, 4, 96, 0.0, batch_first=True).eval()
    maps = (ours.q_proj, ours.k_proj, ours.v_proj)
    with torch.no_grad():
        for part in maps:
            part.bias.normal_()
    state = {
        "self_attn.in_proj_weight": torch.cat([part.weight for part in maps]),
        "self_attn.in_proj_bias": torch.cat([part.bias for part in maps]),
        "self_attn.out_proj.weight": ours.out_proj.weight,
        "self_attn.out_proj.bias": ours.out_proj.bias,
    }
    for name in VECTORS:
        state |= {f"{name}.{k}": v for k, v in getattr(ours, name).named_parameters()}
    theirs.load_state_dict(state)
    states = torch.randn(2, 7, width, generator=torch.Generator().manual_seed(1))
    allowed = torch.ones(7, 7, dtype=torch.bool)
    allowed = allowed.tril() if causal else allowed
    with torch.no_grad():
        wanted = theirs(states, src_mask=~allowed)
        got = ours(states, allowed.expand(2, 1, 7, 7))
        for part in maps:
            part.bias.zero_()
    assert torch.allclose(got, wanted, atol=1e-5)


def test_the_loss_is_the_next_tokens(adapt: Adapt) -> None:
    model = adapt("breaching3-tiny", task="causal-lm")
    texts = [(5, 700, 9, 12), (5, 1300)]
    batch = model.batch(texts, [None, None], torch.Generator())
    loss = model.module(**batch).loss
    each = []
    for text in texts:
        logits = model.module(input_ids=torch.tensor([text])).logits[0]
        each += [-logits[place].log_softmax(0)[text[place + 1]] for place in range(len(text) - 1)]
    assert torch.allclose(loss, torch.stack(each).mean(), atol=1e-5)
