"""The example under examples/gate says what the commands understand."""

from pathlib import Path

import yaml

from attacks import ATTACKS
from fedsim.lab.config import load_config
from fedsim.lab.gate import read_policy
from fedsim.lab.scoring.earned import FIRST

EXAMPLE = Path(__file__).parents[3] / "examples" / "gate"


def test_the_policy_and_the_experiment_are_valid() -> None:
    policy = read_policy(EXAMPLE / "policy.toml", attacks=(), utilities=())
    config = load_config(EXAMPLE / "experiment.toml", [])
    there = {one.name for one in config.attack}
    assert {one.attack for one in policy.thresholds} - {""} <= there
    assert {ATTACKS[name].kind for name in there} == set(FIRST)  # what a run's verdict asks for


def test_the_workflow_runs_what_is_there() -> None:
    workflow = yaml.safe_load((EXAMPLE / "workflow.yml").read_text(encoding="utf-8"))
    commands = [step.get("run", "") for step in workflow["jobs"]["gate"]["steps"]]
    said = " ".join(commands)
    for path in ("examples/gate/experiment.toml", "examples/gate/policy.toml"):
        assert path in said and (EXAMPLE.parents[1] / path).exists()
    assert "fedsim gate run --policy" in said
    assert "pip install ." in commands[2] and "pip install fedsim" not in said  # another project's
