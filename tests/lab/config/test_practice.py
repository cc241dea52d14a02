"""The presets of what people run: what their headers tell to type is accepted, and they start."""

import json
import re
from pathlib import Path

import pytest

from fedsim.lab.config import load_config
from fedsim.lab.run.prepare import prepare

FOLDER = Path(__file__).parents[3] / "examples" / "practice"
PRESETS = sorted(FOLDER.glob("*.toml"))
KEYS = ("model", "data", "federation", "training")


def commands(preset: Path) -> list[list[str]]:
    """The words of each command of a preset's header, lines that go on joined."""
    header = re.match(r"(#.*\n)+", preset.read_text(encoding="utf-8"))
    assert header
    text = re.sub(r"\n#         +", " ", header[0])
    return [line.split() for line in re.findall(r"^#     fedsim run (.*)$", text, re.MULTILINE)]


def test_they_are_those_that_the_page_tells_of() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in PRESETS] == sorted(re.findall(r"`(\w+\.toml)` \|", page))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_the_commands_of_the_header_are_accepted(preset: Path) -> None:
    small, own = commands(preset)
    assert small == [preset.name] and own[0] == preset.name
    config, large = (load_config(preset, words[1:]) for words in (small, own))
    assert config.name == preset.stem and config.training.algorithm == "fedavg"
    assert {attack.name for attack in config.attack} == {"dager", "membership"}
    assert large.model.name != config.model.name and large.federation.rounds > 1


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_it_starts_on_a_model_and_data_of_ones_own(preset: Path, tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Say {n} in words.", "input": "", "output": f"The number is {n}."}
        for n in range(1000)
    ]
    data = tmp_path / "alpaca.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    ours = ["model.name=builtin:llama-tiny", f"data.name={data}", "data.max_length=128"]
    experiment = prepare(load_config(preset, ours))
    assert any("texts are set aside for membership" in note for note in experiment.notes)
