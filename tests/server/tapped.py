"""Toy nodes, and a message to one."""

from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.wire import to_arrays
from tests.server.conftest import towards, weights

START = weights(0)


NODES = {
    71: towards(weights(1), examples=1),
    5: towards(weights(2), examples=3),
    33: towards(weights(3)),
}


def message(node: int, *, kind: str = "train", content: RecordDict | None = None) -> Message:
    if content is None:
        config = ConfigRecord({"server-round": 4})
        content = RecordDict({"arrays": to_arrays(START), "config": config})
    return Message(content, node, kind)
