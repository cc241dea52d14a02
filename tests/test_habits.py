"""What a repository owes its readers: one version, files that tools can read, working commands."""

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import yaml

import fedsim
from attacks import ATTACKS
from defenses import DEFENSES
from fedsim.headers import header

ROOT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_stands_in_one_place_and_is_cited() -> None:
    project = tomllib.loads(read("pyproject.toml"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "fedsim/__init__.py"
    assert re.findall(r'^__version__ = "(.+)"$', read("fedsim/__init__.py"), re.MULTILINE) == [
        fedsim.__version__
    ]
    cited = yaml.safe_load(read("CITATION.cff"))
    assert cited["version"] == fedsim.__version__
    assert isinstance(cited["date-released"], date)


def test_the_changelog_keeps_its_form() -> None:
    heads = re.findall(r"^## (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    for head in heads[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", head)
    groups = set(re.findall(r"^### (.+)$", read("CHANGELOG.md"), re.MULTILINE))
    assert groups <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_paper_of_an_attack_is_cited() -> None:
    cited = yaml.safe_load(read("CITATION.cff"))
    # What schema 1.2.0 of the Citation File Format asks for.
    assert cited["cff-version"] == "1.2.0"
    assert cited["authors"] == [{"name": "the fedsim developers"}]
    assert cited["title"] and cited["message"]
    known = {mark["value"] for paper in cited["references"] for mark in paper["identifiers"]}
    for name in ATTACKS:
        paper = re.search(r"arXiv:\d{4}\.\d{5}", header(ATTACKS[name])["source"])
        assert paper and paper[0] in known, name
    for paper in cited["references"]:
        kind, _, name = paper["notes"].partition(" ")
        known_here = {"attack": set(ATTACKS), "defense": set(DEFENSES), "FedSGD": {"and FedAvg"}}
        assert name in known_here[kind]
        assert paper["authors"] and paper["title"] and 2015 < paper["year"] < 2030


def commands(value: Any) -> list[str]:
    """All that the steps of a workflow run, line by line."""
    steps = [step for job in value["jobs"].values() for step in job["steps"]]
    return [line for step in steps for line in step.get("run", "").splitlines()]


def test_what_the_workflow_makes_is_in_the_makefile() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"] == [
        "3.11", "3.12", "3.13",
    ]  # fmt: skip
    made = {line.split()[1] for line in commands(workflow) if line.startswith("make ")}
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert made == {"docs", "lint", "test", ".venv/.ready"} and made - {".venv/.ready"} <= targets
    fast = re.search(r"^fast: .+\n\t\$\(BIN\)/(pytest .+)$", read("Makefile"), re.MULTILINE)
    assert fast and f".venv/bin/{fast[1]}" in commands(workflow)  # lint has a job of its own


def test_the_whole_suite_runs_at_night_alone() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert workflow[True]["schedule"]  # YAML 1.1 reads `on` as true
    whole = workflow["jobs"]["whole"]
    assert whole["if"] == "github.event_name == 'schedule'"
    assert whole["steps"][-1]["run"] == "make test"


def test_the_wheel_is_tried_with_every_package() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    imported = next(line for line in commands(workflow) if "import attacks" in line)
    for package in tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]["packages"]:
        assert re.search(rf"\b{package}\b", imported)


def test_what_lints_before_a_commit_is_what_make_installed() -> None:
    (own,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert own["repo"] == "local"
    system = {hook["id"]: hook["entry"].split()[0] for hook in own["hooks"]
              if hook["language"] == "system"}  # fmt: skip
    assert system == {
        "ruff": ".venv/bin/ruff", "ruff-format": ".venv/bin/ruff", "mypy": ".venv/bin/mypy",
        "lint-imports": ".venv/bin/lint-imports",
    }  # fmt: skip


def test_each_issue_template_has_its_head() -> None:
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
    assert [path.stem for path in templates] == ["attack", "bug", "model-family"]
    for path in templates:
        head = yaml.safe_load(path.read_text(encoding="utf-8").split("---")[1])
        assert set(head) == {"name", "about", "labels"} and all(head.values())
