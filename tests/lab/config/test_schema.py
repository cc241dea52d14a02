import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from attacks import ATTACKS
from defenses import DEFENSES
from fedsim.errors import BadInput
from fedsim.lab.config import (
    AttackSection,
    Config,
    PluginSection,
    check,
    known_keys,
    load_config,
    parse,
)

SMALL = """
name = "small"
[model]
name = "builtin:gpt2-tiny"
[data]
name = "builtin:clinic"
[federation]
clients = 5
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path / "small.toml"


# What a config says


def test_defaults_are_those_of_the_contract(path: Path) -> None:
    config = load_config(path, [])
    # design.md, section 6, "Config"; clients_per_round: all of them.
    assert (config.seed, config.device) == (1, "auto")
    assert config.model.task == "classification"
    assert config.model.weights == "pretrained"
    assert config.model.lora_rank == 0
    assert (config.data.partition, config.data.max_length, config.data.evaluate) == ("iid", 64, 128)
    federation = config.federation
    assert (federation.clients, federation.clients_per_round, federation.rounds) == (5, 5, 1)
    assert (federation.strategy, federation.engine) == ("fedavg", "inline")
    assert federation.on_failure == "stop"
    training = config.training
    assert (training.algorithm, training.optimizer) == ("fedsgd", "sgd")
    assert (training.batch_size, training.local_epochs, training.mini_batch_size) == (4, 1, 4)
    assert (training.learning_rate, training.dropout) == (1e-2, False)
    assert training.wire_dtype == "float32"
    assert [section.name for section in config.defense] == ["none"]
    assert config.attack == []


def test_the_quick_start_is_built_in() -> None:
    config = load_config(None, [])
    assert config.model.name.startswith("builtin:")  # offline
    assert config.data.name.startswith("builtin:")
    assert [section.name for section in config.attack] == ["dager"]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("a=3", 3),
        ("a=1e-3", 1e-3),
        ("a=true", True),
        ("a=dager", "dager"),  # a bare word is a string
        ('a="3"', "3"),
        ("a=openai/gpt2", "openai/gpt2"),
        ("a=", ""),
        ("a=x=y", "x=y"),
        ("a=[1, 2]", [1, 2]),
        ('a=[{name="lamp", steps=600}]', [{"name": "lamp", "steps": 600}]),
        (" a =3", 3),
    ],
)
def test_the_value_of_an_override_is_toml_or_a_bare_word(override: str, value: Any) -> None:
    assert parse(override) == (["a"], value)


def test_overrides_replace_and_add_keys(path: Path) -> None:
    words = ["training.learning_rate=1", "model.name=sshleifer/tiny", "federation.clients=7"]
    config = load_config(path, words)
    assert config.training.learning_rate == 1.0  # a whole number is a number
    assert config.model.name == "sshleifer/tiny"
    assert (config.federation.clients, config.federation.clients_per_round) == (7, 7)
    assert load_config(path, ["seed=3", "seed=4"]).seed == 4  # the last one wins


@pytest.mark.parametrize("kind", ["attack", "defense"])
def test_plugins_are_a_word_a_table_or_a_list_of_either(path: Path, kind: str) -> None:
    def rows(value: str) -> list[tuple[str, dict[str, Any]]]:
        config = load_config(path, [f"{kind}={value}"])
        return [(section.name, section.parameters) for section in getattr(config, kind)]

    assert rows("dager") == [("dager", {})]
    assert rows('{name="clip", norm=2}') == [("clip", {"norm": 2})]
    assert rows('["topk", {name="clip", norm=2}]') == [("topk", {}), ("clip", {"norm": 2})]
    assert rows("[]") == []


def test_plugins_in_a_file(tmp_path: Path) -> None:
    tables = '[defense]\nname = "topk"\nfraction = 0.1\n[[attack]]\nname = "dager"\nrounds = [2]\n'
    (tmp_path / "c.toml").write_text(SMALL + tables)
    config = load_config(tmp_path / "c.toml", [])
    assert [(section.name, section.parameters) for section in config.defense] == [
        ("topk", {"fraction": 0.1})
    ]
    (attack,) = config.attack
    assert (attack.rounds, attack.parameters) == ([2], {})  # rounds is the table's own key


def test_the_resolved_config_survives_toml(path: Path) -> None:
    words = [
        'attack=[{name="dager", max_pairs=7, knowledge={labels=true}, rounds=[1, 3]}, "lamp"]',
        'defense=[{name="clip", norm=0.1}, "topk"]',
        'federation.strategy_options={eta=0.1, nested={b=[1.5, "x"]}}',
        'model.freeze=["embeddings"]',
        'data.name=Zürich – \\ "q".csv',
        "training.learning_rate=1e-30",
    ]
    for config in (load_config(path, []), load_config(path, words), load_config(None, [])):
        text = tomli_w.dumps(config.as_toml())
        assert check(tomllib.loads(text)) == config


def test_every_key_of_the_contract_is_known() -> None:
    contract = """name seed device
        model.name model.tokenizer model.task model.weights model.lora_rank model.lora_targets
        model.freeze data.name data.path data.partition data.max_length data.evaluate
        federation.clients federation.clients_per_round federation.rounds federation.strategy
        federation.engine federation.on_failure training.algorithm training.batch_size
        training.local_epochs training.mini_batch_size training.learning_rate training.optimizer
        training.dropout training.wire_dtype defense.name attack.name attack.rounds attack.clients
        attack.knowledge"""
    assert set(contract.split()) <= set(known_keys())


def test_a_config_cannot_be_changed(path: Path) -> None:
    config = load_config(path, [])
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 2  # type: ignore[misc]


# What is wrong with it: one line that says what was wanted, came and is allowed


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("sed=2", "unknown key 'sed'; did you mean 'seed'"),
        ("training.learning_rat=1", "unknown key 'training.learning_rat'; did you mean 'training"),
        ("trainin.learning_rate=1", "unknown key 'trainin'; did you mean 'training"),
        ("model.lora_ranks=1", "did you mean 'model.lora_rank'"),
        ("federation.client=3", "did you mean 'federation.clients'"),
        ("seed=one", "seed: wanted integer, got 'one'"),
        ("seed=-1", "seed: wanted .*0, got -1"),
        ("seed=1.0", "seed: wanted integer, got 1.0"),
        ("seed=true", "seed: wanted integer, got True"),
        ("name=3", "name: wanted string, got 3"),
        ("name='a b'", "name: wanted text that matches .*, got 'a b'"),
        ("name=../up", r"name: wanted .*, got '../up'"),
        ("device=gpu", r"device: wanted .*cpu.*cuda.*, got 'gpu'"),
        ("model=gpt2", "model: wanted .*, got 'gpt2'"),
        ("model.name=3", "model.name: wanted string, got 3"),
        ("model.name=", "model.name: wanted .*1 character, got ''"),
        ("model.task=chat", "model.task: wanted 'classification', .*'masked-lm', got 'chat'"),
        ("model.weights=none", "model.weights: wanted 'pretrained' or 'random', got 'none'"),
        ("model.freeze=embeddings", "model.freeze: wanted list, got 'embeddings'"),
        ("model.lora_rank=-1", "model.lora_rank: wanted .*0, got -1"),
        ("data.max_length=1", "data.max_length: wanted .*2, got 1"),
        ("data.evaluate=-1", "data.evaluate: wanted .*0, got -1"),
        ("data.alpha=0", "data.alpha: wanted greater than 0, got 0"),
        ("federation.clients=0", "federation.clients: wanted .*1, got 0"),
        ("federation.clients=many", "federation.clients: wanted integer, got 'many'"),
        ("federation.clients_per_round=6", "clients_per_round must be at most .* = 5, got 6"),
        ("federation.clients_per_round=0", "federation.clients_per_round: wanted .*1, got 0"),
        ("federation.rounds=1.5", "federation.rounds: wanted integer, got 1.5"),
        ("federation.engine=spark", "federation.engine: wanted 'inline' or 'ray', got 'spark'"),
        ("federation.on_failure=retry", "wanted 'stop' or 'continue', got 'retry'"),
        ("federation.strategy_options=3", "federation.strategy_options: wanted .*, got 3"),
        ("training.algorithm=sgd", "training.algorithm: wanted 'fedsgd' or 'fedavg', got 'sgd'"),
        ("training.optimizer=lion", "training.optimizer: wanted 'sgd', .*'adamw', got 'lion'"),
        ("training.dropout=yes", "training.dropout: wanted boolean, got 'yes'"),
        ("training.dropout=1", "training.dropout: wanted boolean, got 1"),
        ("training.learning_rate=0", "training.learning_rate: wanted greater than 0, got 0"),
        ("training.learning_rate=1e-2x", "training.learning_rate: wanted number, got '1e-2x'"),
        ("training.learning_rate=nan", "training.learning_rate: wanted .*, got nan"),
        ("training.learning_rate=inf", "training.learning_rate: wanted .*, got inf"),
        ("training.batch_size=-1", "training.batch_size: wanted .*0, got -1"),
        ("training.mini_batch_size=0", "training.mini_batch_size: wanted .*1, got 0"),
        ("training.local_epochs=0", "training.local_epochs: wanted .*1, got 0"),
        ("training.wire_dtype=bfloat16", "wanted 'float32' or 'float16', got 'bfloat16'"),
        ("attack=3", "attack.0: wanted .*, got 3"),
        ("attack=[{rounds=[1]}]", "attack.0.name: missing"),
        ('attack=[{name=""}]', "attack.0.name: wanted .*, got ''"),
        ('attack=[{name="dager", rounds=[0]}]', "attack.0.rounds.0: wanted .*1, got 0"),
        ('attack=[{name="dager", rounds=1}]', "attack.0.rounds: wanted list, got 1"),
        ('attack=[{name="dager", clients=[-1]}]', "attack.0.clients.0: wanted .*0, got -1"),
        ('attack=[{name="dager", knowledge="all"}]', "attack.0.knowledge.*got 'all'"),
        ('attack=[{name="dager", knowledge={labels=1}}]', "attack.0.knowledge.labels: wanted bool"),
        ("defense=3", "defense.0: wanted .*, got 3"),
        ("name.x=1", "name.x: name is not a table; replace it as a whole"),
        ("seed=" + "9" * 5000, "seed: Exceeds the limit"),
        ("seed=" + "[" * 5000, "seed: it is nested too deeply"),
        ("seed", "wanted key=value, got 'seed'"),
        ("=3", "wanted key=value, got '=3'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(path: Path, override: str, line: str) -> None:
    with pytest.raises(BadInput, match=line) as caught:
        load_config(path, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (
            ["attack=lamp", "attack.knowledge=paper"],
            """'attack={name="lamp", knowledge="paper"}'""",
        ),
        (
            ['attack=[{name="dager"}]', "attack.knowledge.labels=true"],
            """'attack={name="dager", knowledge.labels=true}'""",
        ),
        (["defense=topk", "defense.fraction=0.1"], """'defense={name="topk", fraction=0.1}'"""),
    ],
)
def test_a_parameter_of_a_plugin_that_is_only_named_is_told_how(
    path: Path, words: list[str], instead: str
) -> None:
    with pytest.raises(BadInput, match="is not a table; write all of it in one word: ") as caught:
        load_config(path, words)
    assert str(caught.value).endswith(instead)
    load_config(path, [instead.strip("'")])  # as the shell would hand it over


def test_a_mark_at_the_beginning_of_a_file_is_none_of_its_words(tmp_path: Path) -> None:
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load_config(tmp_path / "marked.toml", []) == check(tomllib.loads(SMALL))


@pytest.mark.parametrize("section", ["model", "data"])
def test_what_is_missing_is_named(section: str) -> None:
    tree = tomllib.loads(SMALL)
    tree.pop(section)
    with pytest.raises(BadInput, match=f"^{section}: missing"):
        check(tree)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[model\n", r"'.*c\.toml' is not valid TOML: .*line 1"),
        (b"name = 'caf\xe9'\n", r"'.*c\.toml' cannot be read"),
        (b"seed = " + b"9" * 5000, r"'.*c\.toml' is not valid TOML: Exceeds the limit"),
        (b"a = " + b"[" * 5000, r"'.*c\.toml' is not valid TOML: it is nested too deeply"),
        (None, r"'.*c\.toml' does not exist"),
        ("directory", r"'.*c\.toml' cannot be read"),
        (b"a = " + b"[" * 5000, "is not valid TOML: it is nested too deeply"),
        (b"a = " + b"[" * 100 + b"]" * 100, "is not valid TOML: it is nested too deeply"),
        (b".".join([b"a"] * 100) + b" = 1", "is not valid TOML: it is nested too deeply"),
        (b"seed = " + b"9" * 5000, "is not valid TOML: .*digits"),
        (b"seed = 9223372036854775808", "TOML: seed: an integer must have 64 bits"),
        (b"# " + b"x" * 2**20, "is too large: more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_is_no_config_is_bad_input(tmp_path: Path, content: Any, line: str) -> None:
    if content == "directory":
        (tmp_path / "c.toml").mkdir()
    elif content is not None:
        (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(BadInput, match=line) as caught:
        load_config(tmp_path / "c.toml", [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"attack": [{"name": "dager", "max_pairs": None}]}, "attack.max_pairs"),
        ({"attack": [{"name": "dager", "x": [1, {"y": None}]}]}, "attack.x.y"),
        ({"federation": {"strategy_options": {"eta": None}}}, "federation.strategy_options.eta"),
        ({"seed": None}, "seed"),
    ],
)
def test_a_config_that_was_json_has_no_null(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(BadInput, match=f"^{key}: wanted a value, got null"):
        check({**tomllib.loads(SMALL), **changes})


def test_a_byte_order_mark_is_read(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_config(path, []) == check(tomllib.loads(SMALL))


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("seed=" + "9" * 5000, "^seed: .*digits"),
        ("seed=9223372036854775808", "^seed: an integer must have 64 bits"),
        ("attack=" + "[" * 3000, "nested too deeply"),
        (".".join(["a"] * 100) + "=1", "wanted a key of at most 64 parts, got 100"),
        ("training.local_epochs=100000", "local_epochs: wanted less than or equal to 10000"),
        ("model.name=" + "x" * 300, r"^model\.name: wanted a name that a file can have, got 'xx"),
        ("data.path='a/" + "x" * 5000 + "'", r"^data\.path: wanted a name that a file can have"),
        ("seed='" + "x" * 5000 + "'", "^seed: wanted integer, got 'x{199}\\.\\.\\.$"),
        ("x" * 5000 + "=1", "^unknown key 'x{199}\\.\\.\\. "),
        ("federation.clients=1000000000", "clients: wanted less than or equal to 100000"),
    ],
)
def test_numbers_and_depth_have_limits(path: Path, word: str, line: str) -> None:
    with pytest.raises(BadInput, match=line) as caught:
        load_config(path, [word])
    assert "\n" not in str(caught.value)


def test_a_config_is_a_config() -> None:
    assert isinstance(check(tomllib.loads(SMALL)), Config)


def test_no_setting_of_a_plugin_has_the_name_of_a_key_of_its_table() -> None:
    for kinds, section in ((ATTACKS, AttackSection), (DEFENSES, PluginSection)):
        for name, kind in kinds.items():
            hidden = {field.name for field in fields(kind)} & set(section.model_fields)
            assert not hidden, f"{name}: nobody could set {hidden}"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["training.final_learning_rate=1e-3"], "is for a round_lr_scheduler of linear or cosine"),
        (["training.round_lr_scheduler=cosine"], "wanted more than 0 and at most .* got 0"),
        (["training.round_lr_scheduler=cosine", "training.final_learning_rate=2"], "got 2"),
        (["training.compute_dtype=float16"], "training.compute_dtype: wanted 'float32' or 'bf"),
    ],
)
def test_a_learning_rate_falls_to_where_it_can(words: list[str], line: str) -> None:
    with pytest.raises(BadInput, match=line):
        load_config(None, words)
