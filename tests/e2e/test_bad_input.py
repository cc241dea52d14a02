"""Bad input: one clear line, exit code 2, at once, and nothing is left behind."""

import gzip
from pathlib import Path

import pytest

from fedsim.lab.cli import main
from tests.e2e.conftest import Fedsim

CASES = [
    (["training.batchsize=3"], "did you mean 'training.batch_size'"),
    (["trainng.batch_size=3"], "did you mean 'training'"),
    (["training.batch_size=four"], "training.batch_size: wanted integer, got 'four'"),
    (["data.name=missing.csv"], "missing.csv"),
    (["data.name=empty.csv"], "empty"),
    (["data.name=good.csv", "data.text_column=body"], "body"),
    (["data.name=good.csv", "federation.clients=50"], "50"),
    (["data.name=no-such-owner/no-such-data"], "no-such-owner/no-such-data"),
    (["model.name=no-such-owner/no-such-model"], "no-such-owner/no-such-model"),
    (["model.name=bare"], "tokenizer"),
    (["model.name=builtin:gpt3"], "builtin|gpt2"),
    (["model.task=masked-lm"], "classification or causal-lm|causal-lm or classification"),
    (["federation.clients=2", "federation.clients_per_round=3"], "at most federation.clients = 2"),
    (["federation.strategy=fedavgg"], "did you mean 'fedavg'"),
    (["data.partition=idd"], "did you mean 'iid'"),
    (["attack=dagger"], "did you mean 'dager'"),
    (['attack=[{name="dager", max_pair=1}]'], "did you mean 'max_pairs'"),
    (['attack=[{name="dager", knowledge={lables=true}}]'], "did you mean 'labels'"),
    (["defense=dp"], "unknown defense 'dp'"),
    (["data.max_length=5000"], "256 positions"),
    (["federation.strategy=krum", "federation.strategy_options={num_malicious_nodes=99}"], "201"),
    (["federation.timeout=1e7"], "federation.timeout: wanted less than or equal to 1000000"),
    (["no-such-file.toml"], "no-such-file.toml"),
    (["no=such/file=1.toml"], "unknown key 'no'"),
    (["no-such/file=1.toml"], "config 'no-such/file=1.toml' does not exist"),
    (["a=1.toml"], "missing.csv"),
    (["lone.jsonl.toml"], "lone surrogate"),
    (["broken.toml"], "not valid TOML"),
    (["model.name=adapter"], "adapter_config.json.*: base_model_name_or_path"),
    (["model.lora_rank=4", 'model.lora_targets=["score"]'], "'score' is the head, .* c_attn, c_fc"),
    (["attack=lamp", "attack.knowledge=paper"], 'attack={name="lamp", knowledge="paper"}'),
    (["data.name=caret.csv"], r"set data.label_column \(columns: text\^label\)"),
    (["data.encoding=utf-9"], "data.encoding: wanted an encoding .* got 'utf-9'; did you mean"),
    (["data.name=good.csv", "data.template=alpacca"], "did you mean 'alpaca'.*known: alpaca, chat"),
    (
        ["data.name=good.csv", "data.template=t.txt"],
        "unknown column 'txt'; did you mean 'text'.*known: label, text",
    ),
    (["data.name=bomb.txt.gz"], "bomb.txt.gz' unpacks to more than 100 times its size"),
    (["data.name=gap.csv"], "'label' must hold .*, got blank in row 3, int in row 1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "line"), CASES, ids=lambda value: str(value)[:40])
def test_bad_input(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    Path("empty.csv").write_text("")
    tables = '[model]\nname = "builtin:gpt2-tiny"\n[data]\nname = "{}"\n'
    Path("a=1.toml").write_text(tables.format("missing.csv"))
    Path("lone.jsonl.toml").write_text(tables.format("lone.jsonl"))
    Path("lone.jsonl").write_text('{"text": "\\ud800", "label": 1}\n')
    Path("good.csv").write_text("text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(20)))
    Path("broken.toml").write_text("name = = 3")
    Path("t.txt").write_text("{txt}")
    Path("bomb.txt.gz").write_bytes(gzip.compress(bytes(2**24)))
    Path("caret.csv").write_text("text^label\n" + "".join(f"row {i}^1\n" for i in range(20)))
    Path("gap.csv").write_text("text,label\na,1\nb,0\nc,\nd,0\n")
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text("{}")
    Path("bare").mkdir()
    Path("bare/config.json").write_text('{"model_type": "gpt2"}')
    settings = words if words[0].endswith(".toml") else ["data.evaluate=2", *words]
    assert main(["run", *settings, "--out", "run", "--no-redact"]) == 2
    complaints = [one for one in capsys.readouterr().err.splitlines() if one.startswith("fedsim: ")]
    assert len(complaints) == 1
    assert re.search(line, complaints[0]), complaints[0]
    assert not Path("run").exists()


@pytest.mark.slow
def test_bad_input_by_the_command(command: Fedsim, tmp_path: Path) -> None:
    done = command("run", "model.name=no-such-owner/no-such-model", "--out", "run")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
