"""The code on the pages runs as it stands."""

import tomllib
import types
from pathlib import Path
from typing import Any, cast

import torch
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from transformers import GPT2Config, GPT2ForSequenceClassification

from attacks import Attack
from defenses import Defense
from fedsim.effects import Rescales
from fedsim.lab.config import QUICK_START
from fedsim.models import ModelSpec, load_adapter
from fedsim.observing import observe
from fedsim.tap import GridProxy, TapGrid
from fedsim.tap.wrapper import TappedServerApp
from tests.docs.pages import ROOT, blocks, printed

PLUGINS = blocks(ROOT / "docs" / "plugins.md", "python")
FLOWER = blocks(ROOT / "docs" / "your-flower-project.md", "python")
OWN = blocks(ROOT / "docs" / "your-own-model.md", "python")


def module(code: str, name: str) -> types.ModuleType:
    made = types.ModuleType(name)
    exec(compile(code, name, "exec"), vars(made))
    return made


def test_the_attack_of_the_plugins_page_names_tokens_of_the_batch() -> None:
    reader: type[Attack] = module(PLUGINS[0], "reader").Reader
    tiny = load_adapter(ModelSpec(name="builtin:gpt2-tiny"))
    batch = tiny.tokenizer("Nora Petrov has had a rash since Tuesday.", return_tensors="pt")
    tiny.module.zero_grad()
    tiny.module(**batch, labels=torch.tensor([0])).loss.backward()
    observation = observe(tiny.module, tiny.tokenizer, num_examples=1)
    (guess,) = reader().reconstruct(observation, torch.Generator()).sequences
    assert len(guess) == 8
    assert set(guess) <= set(batch["input_ids"][0].tolist())  # no other embedding has a gradient


def test_the_defense_of_the_plugins_page_halves_the_update_and_says_so() -> None:
    scale: type[Defense] = module(PLUGINS[1], "scale").Scale
    sent = scale().protect({"w": torch.tensor([2.0, -4.0])}, torch.Generator())
    assert sent["w"].tolist() == [1.0, -2.0]
    assert scale().effects() == (Rescales(divisor=2.0),)


def test_a_model_of_ones_own_without_a_padding_token_is_read(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tokenizer = load_adapter(ModelSpec(name="builtin:gpt2-tiny")).tokenizer
    assert tokenizer.pad_token is None
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=192, n_layer=3, n_head=6)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert OWN[0].count("path/or/hub-id") == 2
    *texts, scores = printed(OWN[0].replace("path/or/hub-id", "model"), tmp_path)
    assert len(texts) == 2
    assert "'exact_match': 1.0" in scores


def test_the_config_on_the_commands_page_is_the_quick_start() -> None:
    shown = blocks(ROOT / "docs" / "commands.md", "toml")[0]
    assert tomllib.loads(shown) == tomllib.loads(QUICK_START.read_text(encoding="utf-8"))


def test_the_lines_of_the_flower_page_tap_what_they_are_given(tmp_path: Path) -> None:
    class Started(FedAvg):
        def start(self, grid: Any, *args: Any, **kwargs: Any) -> Any:
            given.append(grid)

    given: list[Any] = []
    legacy = LegacyFedAvg()
    names: dict[str, Any] = {
        "app": ServerApp(), "grid": GridProxy(cast(Any, None)), "strategy": Started(), "arrays": {}
    }  # fmt: skip
    for code in FLOWER[:2]:
        exec(code.replace("/data", str(tmp_path)), names)
    assert isinstance(names["app"], TappedServerApp) and isinstance(given[0], TapGrid)
    names["strategy"] = legacy
    exec(FLOWER[2], names)
    assert names["strategy"] is legacy and "configure_fit" in vars(legacy)
