"""A tap in somebody else's project: it ends nothing, and knows rounds and clients."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common import FitIns, FitRes, Status, ndarrays_to_parameters
from flwr.common.typing import Code
from flwr.server import ServerAppComponents, ServerConfig, SimpleClientManager
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedsim.captures import find_captures, read_capture
from fedsim.errors import BadInput
from fedsim.tap.wrapper import TappedServerApp
from fedsim.wire import to_arrays
from server import Capture, Exchange, Progress, TapGrid, build_server_app, tapped
from tests.server.conftest import ToyGrid, towards, weights
from tests.server.tapped import NODES, START, message
from tests.server.toys import partitioned, settings

BARE = RecordDict({"arrays": to_arrays(START)})


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def failing(error: BaseException) -> Callable[[Sequence[Exchange]], None]:
    def hook(_: Sequence[Exchange]) -> None:
        raise error

    return hook


FAULTS = [ValueError("boom"), SystemExit(3), MemoryError(), RecursionError("deep"), StopIteration(),
          Wordless(), BaseException("panic")]  # fmt: skip


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_hook_s_fault_is_said_once_and_the_others_go_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    shown: list[Any] = []
    grid = TapGrid(ToyGrid(NODES), [failing(error), shown.append])
    with caplog.at_level(logging.WARNING, "fedsim.tap"):
        for _ in range(3):
            assert len(list(grid.send_and_receive([message(5), message(71)]))) == 2
    assert len(shown) == 3
    assert len([r for r in caplog.records if "the training goes on" in r.getMessage()]) == 1


def test_an_interrupt_is_none() -> None:
    with pytest.raises(KeyboardInterrupt):
        TapGrid(ToyGrid(NODES), [failing(KeyboardInterrupt())]).send_and_receive([message(5)])


def test_a_hook_s_fault_ends_an_experiment_of_ours() -> None:
    app = build_server_app(
        settings(), Progress(round=0, parameters=weights(0)), [failing(ValueError("boom"))], print
    )
    grid = partitioned({90 - c: c for c in range(4)}, lambda client: towards(weights(client)))
    with pytest.raises(ValueError, match="boom"):
        app(grid, Context(1, 0, {}, RecordDict(), {}))
    with pytest.raises(ValueError, match="boom"):
        TapGrid(ToyGrid(NODES), [failing(ValueError("boom"))], guarded=False).send_and_receive(
            [message(5)]
        )


def test_a_fault_of_the_tap_itself_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("boom")

    for name in ("snapshot", "copies", "summed_nodes"):
        with monkeypatch.context() as patch:
            patch.setattr(f"fedsim.tap.grid.{name}", broken)
            grid = TapGrid(ToyGrid(NODES), [lambda _: None])
            (reply,) = grid.send_and_receive([message(5)])
            assert reply.metadata.src_node_id == 5


# Rounds


def rounds(grid: TapGrid, calls: Sequence[Sequence[Message]]) -> list[list[int]]:
    seen: list[list[int]] = []
    grid.hooks = [lambda exchanges: seen.append([exchange.round for exchange in exchanges])]
    for call in calls:
        list(grid.send_and_receive(call))
    return seen


def one(node: int, *, group: str = "", content: RecordDict = BARE, **config: Any) -> Message:
    told = RecordDict({**content, **({"config": ConfigRecord(config)} if config else {})})
    return Message(told, node, "train", group_id=group)


SAID = RecordDict({**BARE, "config": ConfigRecord({"server-round": 4})})


def ask(node: int, **how: Any) -> Callable[[], Message]:
    return partial(one, node, **how)  # no message can be made before there is an identity


@pytest.mark.parametrize(
    ("calls", "wanted"),
    [
        ([[ask(5, group="1")], [ask(71, group="1")], [ask(5, group="2")]], [1, 1, 2]),
        ([[ask(5, group="7", **{"server-round": 3})]], [3]),  # Flower's strategies' word first
        ([[ask(5, group="train", server_round=4)]], [4]),  # then what on_fit_config_fn puts in
        ([[ask(5, current_round="6")], [ask(5, round=0)], [ask(5, rnd=2.0)]], [6, 0, 2]),
        ([[ask(5, **{"server-round": 0})], [ask(5, **{"server-round": 1})]], [0, 1]),
        ([[ask(5)], [ask(71)], [ask(5)], [ask(33)]], [1, 1, 2, 2]),  # counted by whose turn it is
        ([[ask(5)], [ask(71)], [ask(33, content=SAID)]], [1, 1, 4]),
        ([[ask(5)], [ask(71, content=RecordDict({"arrays": to_arrays(weights(3))}))]], [1, 2]),
        ([[ask(5, round=True)], [ask(5, round=-1)], [ask(5, round="x")], [ask(5, round=1.5)]],
         [1, 2, 3, 4]),
    ],
)  # fmt: skip
def test_a_round_is_what_a_message_says_or_else_counted(
    calls: list[list[Callable[[], Message]]], wanted: list[int]
) -> None:
    made = [[ask() for ask in call] for call in calls]
    seen = rounds(TapGrid(ToyGrid(NODES), []), made)
    assert [number for call in seen for number in call] == wanted


def test_a_message_that_says_no_round_is_of_that_of_its_neighbours() -> None:
    assert rounds(TapGrid(ToyGrid(NODES), []), [[one(5), one(71, round=9)]]) == [[9, 9]]


def test_one_message_a_call_from_threads_is_captured_by_round_and_client(tmp_path: Path) -> None:
    grid = TapGrid(ToyGrid(NODES), [Capture(tmp_path)])
    for round_ in (1, 2, 3):
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(
                lambda node, r=round_: list(grid.send_and_receive([one(node, group=str(r))])), NODES
            ))  # fmt: skip
    captures = find_captures(tmp_path)
    assert [(c.round, c.client) for c in captures] == [(r, c) for r in (1, 2, 3) for c in range(3)]
    nodes = [[read_capture(c).node for c in captures if c.client == n] for n in range(3)]
    assert sorted(n[0] for n in nodes if n[0]) == [5, 33, 71]
    assert all(len(set(each)) == 1 for each in nodes)
    stats = {(c.directory / "broadcast.safetensors").stat().st_ino for c in captures}
    assert len(stats) == 1  # the weights never changed: they are stored once


def test_an_app_that_pulls_by_itself_is_seen(tmp_path: Path) -> None:
    shown: list[Sequence[Exchange]] = []
    grid = TapGrid(ToyGrid(NODES), [shown.append])
    ids = list(grid.push_messages(one(node, group="4") for node in NODES))
    first, second = list(grid.pull_messages(ids[:1])), list(grid.pull_messages(iter(ids[1:])))
    assert (len(first), len(second)) == (1, 2) and list(grid.pull_messages(ids)) == []
    assert [[(e.round, e.node_id) for e in call] for call in shown] == [
        [(4, 71)],
        [(4, 5), (4, 33)],
    ]
    other = list(grid.push_messages([message(5, kind="query")]))
    assert len(list(grid.pull_messages(other))) == 1 and len(shown) == 2


def test_a_grid_that_sends_messages_of_its_own_is_seen() -> None:
    class Rewraps(ToyGrid):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            made = [Message(m.content, m.metadata.dst_node_id, "train") for m in messages]
            return super().send_and_receive(made)

    shown: list[Sequence[Exchange]] = []
    list(TapGrid(Rewraps(NODES), [shown.append]).send_and_receive([one(5), one(71)]))
    assert [(e.node_id, e.received is not None) for e in shown[0]] == [(5, True), (71, True)]


def test_what_only_the_grid_inside_has_is_found() -> None:
    inner = ToyGrid(NODES)
    grid = TapGrid(inner, [])
    assert grid.asked is inner.asked and [n.node_id for n in grid.get_nodes()] == list(NODES)
    with pytest.raises(AttributeError, match="nothing"):
        _ = grid.nothing


# One line where there is no grid to wrap


def legacy_node(step: float, examples: int) -> Callable[[Message], RecordDict]:
    """A NumPyClient, as its answers lie on the wire."""

    def answer(asked: Message) -> RecordDict:
        if asked.metadata.message_type == "evaluate":
            raise AssertionError("nobody asks for that")
        sent = asked.content.array_records["fitins.parameters"]
        arrays = {k: Array("", (), "numpy.ndarray", Array(a.numpy() + np.float32(step)).data)
                  for k, a in sent.items()}  # fmt: skip
        return RecordDict({
            "fitres.parameters": ArrayRecord(arrays),
            "fitres.num_examples": MetricRecord({"num_examples": examples}),
            "fitres.metrics": ConfigRecord({}),
            "fitres.status": ConfigRecord({"code": 0, "message": ""}),
        })  # fmt: skip

    return answer


def legacy_strategy() -> LegacyFedAvg:
    first = ndarrays_to_parameters([np.zeros((2, 3), np.float32), np.ones(4, np.float32)])
    return LegacyFedAvg(fraction_evaluate=0.0, min_fit_clients=3, min_available_clients=3,
                        initial_parameters=first)  # fmt: skip


LEGACY = {7: legacy_node(0.5, 1), 8: legacy_node(0.25, 2), 2**63 + 9: legacy_node(2.0, 3)}


def check_legacy(root: Path) -> None:
    """Two rounds of three clients, each by its own step."""
    steps = {1: 0.5, 2: 0.25, 3: 2.0}
    captures = find_captures(root)
    assert [(c.round, c.client) for c in captures] == [(r, c) for r in (1, 2) for c in range(3)]
    for where in captures:
        update = read_capture(where).update
        assert list(update.tensors) == ["0", "1"]
        for tensor in update.tensors.values():
            assert np.allclose(tensor.numpy(), steps[update.num_examples], atol=1e-6)
    for round_ in (1, 2):
        of = [read_capture(c).update.num_examples for c in captures if c.round == round_]
        assert sorted(of) == [1, 2, 3]


def test_a_server_fn_project_is_captured(tmp_path: Path) -> None:
    def server_fn(context: Context) -> ServerAppComponents:
        return ServerAppComponents(strategy=legacy_strategy(), config=ServerConfig(num_rounds=2))

    app = tapped(ServerApp(server_fn=server_fn), tmp_path)
    assert isinstance(app, ServerApp)
    app(grid=ToyGrid(LEGACY), context=Context(1, 0, {}, RecordDict(), {}))
    check_legacy(tmp_path)


def test_a_legacy_strategy_is_captured_and_stays_what_it_is(tmp_path: Path) -> None:
    strategy = legacy_strategy()
    assert tapped(strategy, tmp_path) is strategy and isinstance(strategy, LegacyFedAvg)
    manager = SimpleClientManager()
    for cid in ("0", "af" * 16, "7"):
        manager.register(SimpleNamespace(cid=cid))  # type: ignore[arg-type]
    parameters = strategy.initialize_parameters(manager)
    assert parameters is not None
    plain = legacy_strategy()
    for round_ in (1, 2):
        asked = strategy.configure_fit(round_, parameters, manager)
        results = [(proxy, fitted(ins, proxy.cid)) for proxy, ins in asked]
        got = strategy.aggregate_fit(server_round=round_, results=results, failures=[])
        assert got == plain.aggregate_fit(round_, results, [])
        assert got[0] is not None
        parameters = got[0]
    check_legacy(tmp_path)


def fitted(ins: FitIns, cid: str) -> FitRes:
    examples = {"0": 1, "7": 2}.get(cid, 3)
    step = {1: 0.5, 2: 0.25, 3: 2.0}[examples]
    arrays = [np.load(BytesIO(one)) + np.float32(step)
              for one in ins.parameters.tensors]  # fmt: skip
    return FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), examples, {})


@pytest.mark.parametrize("broken", ["configure", "aggregate"])
def test_a_legacy_strategy_of_another_kind_is_not_ended(tmp_path: Path, broken: str) -> None:
    class Odd:
        def configure_fit(self, *args: Any, **kwargs: Any) -> Any:
            return "nothing" if broken == "configure" else []

        def aggregate_fit(self, *args: Any, **kwargs: Any) -> Any:
            return "all"

    odd = tapped(Odd(), tmp_path)
    assert odd.configure_fit(1, None, None) == ("nothing" if broken == "configure" else [])
    assert odd.aggregate_fit("no", "results") == odd.aggregate_fit() == "all"


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_main_function_is_captured_wherever_it_is_registered(tmp_path: Path, place: str) -> None:
    app, begun = ServerApp(), list[str]()
    wrapped = tapped(app, tmp_path)
    registered = app if place == "before" else wrapped

    @registered.lifespan()
    def life(context: Context) -> Any:
        begun.append("life")
        yield

    @registered.main()
    def main(grid: Grid, context: Context) -> None:
        list(grid.send_and_receive([message(5), message(71)]))

    assert isinstance(wrapped, TappedServerApp)
    wrapped(ToyGrid(NODES), Context(1, 0, {}, RecordDict(), {}))
    assert begun == ["life"]
    assert [(c.round, c.client) for c in find_captures(tmp_path)] == [(4, 0), (4, 1)]


def test_a_strategy_and_a_grid_are_captured(tmp_path: Path) -> None:
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=3)
    assert tapped(strategy, tmp_path / "strategy") is strategy
    nodes = {node: lambda m: RecordDict({"arrays": to_arrays(weights(1)),
                                         "m": MetricRecord({"num-examples": 2})})
             for node in (1, 2, 3)}  # fmt: skip
    strategy.start(grid=ToyGrid(nodes), initial_arrays=to_arrays(START), num_rounds=2)
    assert len(find_captures(tmp_path / "strategy")) == 6
    grid = tapped(ToyGrid(nodes), tmp_path / "grid")
    list(grid.send_and_receive([message(1)]))
    assert len(find_captures(tmp_path / "grid")) == 1


def test_anything_else_is_told_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="wanted a ServerApp, a grid or a strategy, got int"):
        tapped(3, tmp_path)
