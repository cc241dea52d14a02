import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error, Message

from fedsim.errors import ClientFailure
from fedsim.wire import whoami_content
from server import PartitionedGrid
from server.grids import Only
from tests.server.conftest import Answer, ToyGrid

PARTITIONS = {900: 2, 17: 0, 404: 3, 5: 1}  # node id -> partition, in the order nodes register


def named(partitions: dict[int, int]) -> dict[int, Answer]:
    return {node: (lambda _, at=at: whoami_content(at)) for node, at in partitions.items()}  # type: ignore[misc]


@pytest.mark.parametrize("order", list(itertools.permutations(PARTITIONS))[::7])
def test_nodes_are_listed_by_partition_however_they_register(order: tuple[int, ...]) -> None:
    inner = ToyGrid(named({node: PARTITIONS[node] for node in order}))
    grid = PartitionedGrid(inner, 4)
    assert list(grid.get_node_ids()) == [17, 5, 900, 404]  # partitions 0, 1, 2, 3
    assert grid.partition == PARTITIONS


def test_each_node_is_asked_once_by_a_query() -> None:
    inner = ToyGrid(named(PARTITIONS))
    grid = PartitionedGrid(inner, 4)
    assert list(grid.get_node_ids()) == list(grid.get_node_ids())
    assert sorted(message.metadata.dst_node_id for message in inner.asked) == [5, 17, 404, 900]
    assert {message.metadata.message_type for message in inner.asked} == {"query"}


class LateGrid(ToyGrid):
    """One more node registers each time somebody looks."""

    def get_node_ids(self) -> list[int]:
        self.looks = getattr(self, "looks", 0) + 1
        return list(self.nodes)[: self.looks]


def test_it_waits_for_every_client() -> None:
    assert list(PartitionedGrid(LateGrid(named(PARTITIONS)), 4).get_node_ids()) == [17, 5, 900, 404]


def test_it_gives_up_when_clients_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []  # a clock that goes on by what is slept, and by nothing else
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr("server.grids.time", clock)
    with pytest.raises(ClientFailure, match="4 of 5 clients connected after 7 s"):
        PartitionedGrid(ToyGrid(named(PARTITIONS)), 5, wait=7.0).get_node_ids()
    assert 7.0 < sum(slept) < 7.2


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        (lambda _: Error(2, "ValueError: expects one ArrayRecord"), "expects one ArrayRecord"),
        (lambda _: None, r"errors: \[\]"),  # no reply at all
    ],
)
def test_a_client_that_does_not_tell_its_partition_is_an_error(bad: Any, line: str) -> None:
    nodes = {**named(PARTITIONS), 900: bad}
    with pytest.raises(ClientFailure, match=f"3 of 4 clients told their partition.*{line}"):
        PartitionedGrid(ToyGrid(nodes), 4).get_node_ids()


def test_two_clients_with_one_partition_are_an_error() -> None:
    # Else client 1 would be missing, and client 0 would train twice under two node ids.
    with pytest.raises(ClientFailure, match="partition"):
        PartitionedGrid(ToyGrid(named({**PARTITIONS, 5: 0})), 4).get_node_ids()


def test_a_strategy_is_shown_the_chosen_nodes_alone() -> None:
    grid = Only(ToyGrid(named(PARTITIONS)), [404, 17])
    assert list(grid.get_node_ids()) == [404, 17]
    replies = grid.send_and_receive([Message(whoami_content(0), 404, "query")])
    assert len(list(replies)) == 1
