"""Paths of a config, from wherever a run goes on."""

from pathlib import Path

import pytest

from fedsim.lab.config import check
from fedsim.lab.config.paths import absolute
from fedsim.lab.store.inputs import digests


def config(template: str) -> dict[str, dict[str, str]]:
    return {"model": {"name": "builtin:gpt2-tiny"}, "data": {"name": "a", "template": template}}


def test_a_template_is_a_path_and_an_input_where_it_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.txt", "alpaca", "chat"):
        Path(name).write_text("a {text}")
    resolved = absolute(check(config("mine.txt")))
    assert resolved.data.template == str(tmp_path / "mine.txt")
    before = digests(resolved)
    assert set(before) == {"data.template"}
    Path("mine.txt").write_text("b {text}")
    assert digests(resolved) != before
    for word in ("alpaca", "chat", ""):  # whatever files are called
        assert absolute(check(config(word))).data.template == word
