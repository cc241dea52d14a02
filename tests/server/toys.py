"""Toy clients that hold partitions, and weights that are compared bit by bit."""

from collections.abc import Callable
from typing import Any

from flwr.app import Error, Message, RecordDict

from fedsim.wire import whoami_content
from server import ServerSettings
from tests.server.conftest import Answer, ToyGrid


def same(some: dict[str, Any], other: dict[str, Any]) -> bool:
    return list(some) == list(other) and all((some[name] == other[name]).all() for name in some)


def partitioned(nodes: dict[int, int], answer: Callable[[int], Answer]) -> ToyGrid:
    """A grid whose node n holds partition ``nodes[n]`` and answers training like its client."""

    def both(partition: int) -> Answer:
        def reply(message: Message) -> RecordDict | Error | None:
            if message.metadata.message_type == "query":
                return whoami_content(partition)
            return answer(partition)(message)

        return reply

    return ToyGrid({node: both(partition) for node, partition in nodes.items()})


def settings(**changes: Any) -> ServerSettings:
    usual: dict[str, Any] = {
        "clients": 4,
        "clients_per_round": 3,
        "rounds": 3,
        "seed": 6,
        "learning_rate": 0.01,
    }
    return ServerSettings(**{**usual, **changes})
