"""A run of three clients; models small enough for naive loops, in float64."""

import csv
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from transformers import BertConfig, GPT2Config

from clients import ClientSettings, DataSettings
from fedsim.flower import set_identity
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.models.families.bert import BertAdapter
from fedsim.models.families.gpt2 import GPT2Adapter
from fedsim.models.presets import VOCABULARY, preset_tokenizer
from fedsim.vault.keys import own_key
from tests.clients.rounds import MODEL, ROWS


def small(task: Any = "classification", **spec: Any) -> ModelAdapter:
    """A GPT-2 (a BERT for masked-lm) of two blocks, whose workspace is in float64."""
    made = ModelSpec(name="builtin:gpt2-tiny", weights="random", task=task, num_labels=3, **spec)
    sizes: Any = {"vocab_size": VOCABULARY, "pad_token_id": 0}
    adapter: ModelAdapter
    if task == "masked-lm":
        bert = BertConfig(
            hidden_size=20,
            intermediate_size=36,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=29,
            **sizes,
        )
        adapter = BertAdapter(made, bert, preset_tokenizer(BertAdapter))
    else:
        gpt2 = GPT2Config(n_embd=20, n_layer=2, n_head=2, n_positions=29, **sizes)
        adapter = GPT2Adapter(made, gpt2, preset_tokenizer(GPT2Adapter))
    adapter.module.double()
    return adapter


@pytest.fixture(autouse=True)
def identity() -> None:
    set_identity()  # without it no Message can be made outside a running app


@pytest.fixture(scope="module")
def adapter() -> ModelAdapter:
    return load_adapter(MODEL)


@pytest.fixture(scope="module")
def sent(adapter: ModelAdapter) -> dict[str, Tensor]:
    return adapter.initial_parameters()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *ROWS])
    return path


@pytest.fixture
def settings(table: Path, tmp_path: Path) -> ClientSettings:
    return ClientSettings(
        model=MODEL,
        data=DataSettings(name=str(table), evaluate=4),
        max_length=16,
        clients=3,
        batch_size=5,
        seed=2,
        vault=tmp_path / "vault",
        seal=own_key().seal,
    )
