"""Loss of the response alone: what follows the marker's last time in a text."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from clients.holdings import encode
from fedsim.errors import BadInput
from fedsim.lab.run.prepare import prepare
from fedsim.models import ModelSpec, load_adapter
from tests.lab.conftest import experiment

MARKER = "### Response:"
AFTER = f"{MARKER}\n"  # as the template has it
PROMPT = f"Below is an instruction.\n\n### Instruction:\nSay when.\n\n{MARKER}\n"


@pytest.mark.parametrize("name", ["gpt2-tiny", "llama-tiny"])
def test_the_loss_is_of_what_follows_the_marker(name: str) -> None:
    model = load_adapter(ModelSpec(name=f"builtin:{name}", task="causal-lm", response=AFTER))
    texts = [f"{PROMPT}On Tuesday.", f"{PROMPT}{MARKER} is what I was told to say."]
    encoded: Any = model.tokenizer(texts)["input_ids"]
    tokens = [tuple(row) for row in encoded]
    starts = [model.response_start(row) for row in tokens]
    for text, row, start in zip(texts, tokens, starts, strict=True):
        after = str(model.tokenizer.decode(list(row[start:])))
        assert after.strip() == text.rsplit(MARKER, 1)[1].strip()  # the last time counts
        assert str(model.tokenizer.decode(list(row[:start]))).endswith(MARKER)
    batch = model.batch(tokens, [None, None], torch.Generator())
    for place, start in enumerate(starts):
        kept = (batch["labels"][place] != -100).nonzero().flatten().tolist()
        assert kept == list(range(start, len(tokens[place])))
    losses = model.losses(model.module, batch)
    for loss, ids, start in zip(losses, tokens, starts, strict=True):
        logits = model.module(input_ids=torch.tensor([ids])).logits[0]
        wanted = functional.cross_entropy(logits[start - 1 : -1], torch.tensor(ids[start:]))
        assert torch.allclose(loss, wanted, atol=1e-5)
    assert model.predicted(batch).tolist() == [
        len(t) - s for t, s in zip(tokens, starts, strict=True)
    ]


def test_a_token_may_hold_the_markers_end_and_the_line_s() -> None:
    spec = ModelSpec(name="builtin:gpt2-tiny", task="causal-lm", response=AFTER)
    model = load_adapter(spec)
    model.tokenizer.add_tokens([":\n"])  # as Llama 3's and Qwen's have it
    tokens: Any = model.tokenizer(f"{PROMPT}On Tuesday.")["input_ids"]
    start = model.response_start(tuple(tokens))
    assert start and str(model.tokenizer.decode(tokens[start:])) == "On Tuesday."


def test_a_marker_that_no_tokens_stand_for_is_said() -> None:
    spec = ModelSpec(name="builtin:gpt2-tiny", task="causal-lm", response=" \n")
    with pytest.raises(BadInput, match="no tokens of its own"):
        load_adapter(spec).response_start((5, 6))


def test_a_client_leaves_out_what_has_no_response() -> None:
    model = load_adapter(ModelSpec(name="builtin:gpt2-tiny", task="causal-lm", response=AFTER))
    texts = [f"{PROMPT}On Tuesday.", "No marker here.", PROMPT.strip()]
    kept = encode(model, texts, [None] * 3, 64)
    assert len(kept.sequences) == 1
    short = encode(model, texts[:1], [None], 12)  # cut before the marker
    assert not short.sequences


def test_a_response_wants_a_template_and_a_language_model() -> None:
    models: list[dict[str, Any]] = [{}, {"task": "causal-lm"}]
    for model in models:
        config = experiment(
            model={"name": "builtin:gpt2-tiny", **model}, data={"response_only": True}
        )
        with pytest.raises(BadInput, match=r"data\.response_only: wanted model.task causal-lm"):
            prepare(config)
