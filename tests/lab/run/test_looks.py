"""What hides texts and no update shows is told by what was said of the training."""

from typing import Any

import pytest
import torch

from fedsim.captures import Captured
from fedsim.lab.run.looks import hiding
from fedsim.messages import Broadcast, Update
from fedsim.models import ModelSpec, load_adapter


@pytest.mark.parametrize(
    ("model", "config", "said"),
    [
        ({"name": "builtin:gpt2-tiny"}, {"dropout": True}, True),
        ({"name": "builtin:gpt2-tiny"}, {"dropout": False}, False),
        ({"name": "builtin:gpt2-tiny"}, {}, False),
        ({"name": "builtin:gpt2-tiny", "dropout": 0.0}, {"dropout": True}, False),
        ({"name": "builtin:llama-tiny"}, {"dropout": True}, False),  # it has no rate at all
        (
            {"name": "builtin:llama-tiny", "lora_rank": 4, "lora_dropout": 0.1},
            {"dropout": True},
            True,
        ),
    ],
)
def test_dropout_is_a_reason_where_it_was_on_and_drops_something(
    model: dict[str, Any], config: dict[str, Any], said: bool
) -> None:
    left, right = (torch.randn(96, 6, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    update = {"a.weight": left**3 @ right.T**3}  # a sum of few outer products, as gradients are
    captured = Captured(
        round=1,
        client=0,
        broadcast=Broadcast(round=1, parameters={"a.weight": torch.zeros(96, 96)}, config=config),
        update=Update(tensors=update, kind="delta", num_examples=2),
        model={},
    )
    words = hiding(captured, load_adapter(ModelSpec(**model)))
    assert len(words) == said and all("dropout was on" in word for word in words)
