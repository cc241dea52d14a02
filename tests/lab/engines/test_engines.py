import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedsim.errors import BadInput, RunFailed
from fedsim.lab.config import Config
from fedsim.lab.display import Silent
from fedsim.lab.engines import ENGINES, Resources
from fedsim.lab.engines.inline import InlineGrid
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.store.run import RunDirectory
from tests.lab.conftest import experiment

# The inline engine


def counting_client() -> ClientApp:
    """Answers with its partition and how often it was asked; spoils what it was sent."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        if partition == 2:
            raise BadInput("client two is broken")
        asked = context.state.metric_records.setdefault("asked", MetricRecord({"times": 0}))
        asked["times"] = int(asked["times"]) + 1  # type: ignore[arg-type]
        (sent,) = message.content.array_records.values()
        sent["w"] = Array(np.full(2, 9.0, np.float32))
        message.content.config_records["config"]["lr"] = 7.0
        answer = ConfigRecord({"partition": partition, "times": asked["times"]})
        return Message(RecordDict({"answer": answer}), reply_to=message)

    return app


def messages(grid: Grid, content: RecordDict) -> list[Message]:
    return [Message(content, node, "train") for node in grid.get_node_ids()]


def content() -> RecordDict:
    arrays = ArrayRecord({"w": Array(np.ones(2, np.float32))})
    return RecordDict({"arrays": arrays, "config": ConfigRecord({"lr": 0.5})})


def answers(replies: Iterable[Message]) -> list[Any]:
    return [
        reply.error.code if reply.has_error() else dict(reply.content.config_records["answer"])
        for reply in replies
    ]


def test_clients_answer_in_order_and_keep_their_state() -> None:
    grid = InlineGrid(counting_client(), 4)
    for times in (1, 2):
        answered = answers(grid.send_and_receive(messages(grid, content())))
        expected: list[Any] = [{"partition": i, "times": times} for i in range(4)]
        expected[2] = 2  # Flower's code for an exception in a ClientApp
        assert answered == expected


def test_a_clients_exception_is_its_answer() -> None:
    grid = InlineGrid(counting_client(), 3)
    replies = list(grid.send_and_receive(messages(grid, content())))
    assert [reply.has_error() for reply in replies] == [False, False, True]
    reason = replies[2].error.reason or ""
    assert "Traceback" in reason
    assert reason.strip().splitlines()[-1].endswith("BadInput: client two is broken")


class Odd(BaseException):
    """No Exception, as asyncio's CancelledError is none."""


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), Odd()])
def test_a_clients_exit_is_its_answer(error: BaseException) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise error

    grid = InlineGrid(app, 2)
    assert answers(grid.send_and_receive(messages(grid, content()))) == [2, 2]


def test_ctrl_c_is_no_client_s_answer() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise KeyboardInterrupt

    grid = InlineGrid(app, 2)
    with pytest.raises(KeyboardInterrupt):
        grid.send_and_receive(messages(grid, content()))


def test_a_client_cannot_change_what_the_server_sent() -> None:
    grid = InlineGrid(counting_client(), 2)
    shared = content()
    list(grid.send_and_receive(messages(grid, shared)))
    assert shared.array_records["arrays"]["w"].numpy().tolist() == [1.0, 1.0]
    assert shared.config_records["config"]["lr"] == 0.5


def test_replies_name_the_message_they_answer_and_are_pulled_once() -> None:
    grid = InlineGrid(counting_client(), 2)
    pushed = messages(grid, content())
    numbers = list(grid.push_messages(iter(pushed)))
    assert numbers == [message.metadata.message_id for message in pushed]
    assert len(set(numbers)) == 2
    replies = list(grid.pull_messages(reversed(numbers)))
    assert [reply.metadata.reply_to_message_id for reply in replies] == numbers[::-1]
    assert [reply.metadata.src_node_id for reply in replies] == [*grid.get_node_ids()][::-1]
    assert list(grid.pull_messages(numbers)) == []


def test_an_exception_of_the_server_comes_out() -> None:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        raise RunFailed("the server is broken")

    with pytest.raises(RunFailed, match="the server is broken"):
        ENGINES["inline"](app, counting_client(), 2, Resources(cpus=1.0, gpus=0.0))


# The same bits on every engine. Ray leaves sockets and processes to the interpreter's end, and its
# import warns: it runs in a process of its own.

OnRay = dict[str, tuple[Path, int, str]]
CONFIGS: dict[str, dict[str, Any]] = {
    "fedsgd": {"learning_rate": 0.1, "batch_size": 2},
    "fedavg": {
        "algorithm": "fedavg",
        "dropout": True,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "mini_batch_size": 2,
        "local_epochs": 2,
        "batch_size": 5,
    },
}


RUNS = """
import contextlib, io, json, sys
from fedsim.lab.cli import main
ended = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        ended.append([main(words), said.getvalue()])
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> OnRay:
    """Where each config's run on Ray is, its exit code and what it said; one process runs them."""
    folder = tmp_path_factory.mktemp("ray")
    configs = {name: config_of(name) for name in CONFIGS} | {"too large": too_large()}
    commands = []
    for name, config in configs.items():
        (folder / f"{name}.toml").write_text(tomli_w.dumps(config.as_toml()))
        apart = ["federation.timeout=600"] if name == "fedavg" else []  # each in its own process
        path, root = str(folder / f"{name}.toml"), str(folder / name)
        commands.append(["run", path, "federation.engine=ray", *apart, "--out", root])
    command = [sys.executable, "-W", "ignore", "-c", RUNS, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200 * len(commands))
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])
    return {name: (folder / name, *end) for name, end in zip(configs, ended, strict=True)}


def rounds(root: Path) -> list[Any]:
    """What was noted of each round, times aside."""
    noted = [json.loads(line) for line in (root / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in noted]


def config_of(name: str) -> Config:
    attack = ["dager"] if name == "fedsgd" else []  # one is enough to see that it runs there, too
    return experiment(federation={"rounds": 2}, training=CONFIGS[name], attack=attack)


def too_large() -> Config:
    return experiment(federation={"rounds": 1, "cpus_per_client": 1000.0})


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_inline_and_ray_give_the_same_bits(tmp_path: Path, on_ray: OnRay, name: str) -> None:
    config = config_of(name)
    run = RunDirectory(tmp_path / "inline")
    run.create(config)
    summary, _ = run_experiment(prepare(config), run, Silent())
    inline = rounds(run.root)
    assert [len(row.get("clients", [])) for row in inline] == [0, 3, 3]  # of 4
    assert len({row["checksum"] for row in inline}) == 3  # something was learned in each round

    root, code, said = on_ray[name]
    assert code == 0, said
    assert rounds(root) == inline
    written = json.loads((root / "summary.json").read_text())
    assert written["checksum"] == summary.checksum == inline[-1]["checksum"]


@pytest.mark.slow
@pytest.mark.ray
def test_too_large_a_client_for_ray_is_one_line(on_ray: OnRay) -> None:
    _, code, said = on_ray["too large"]
    assert code in (2, 4), said
    assert "Traceback" not in said
    assert "federation.cpus_per_client" in said
