"""A Flower project without torch, tapped: python numpy_project.py OUT

Of this repository it imports ``fedsim.tap`` alone. It prints which heavy packages came with that.
"""

import random
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedsim.tap import GridProxy, tapped

SHAPES = {"embed.weight": (7, 4), "head.bias": (3,)}
HEAVY = ("torch", "transformers", "pydantic", "pandas", "fedsim.types", "fedsim.captures")


class Nodes(GridProxy):
    """Three clients in this process, whose weights move by a number of their own."""

    def __init__(self) -> None:
        """There is no grid inside."""

    def get_node_ids(self) -> list[int]:
        return [5, 17, 901]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        replies = []
        for place, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{place}"
            (sent,) = message.content.array_records.values()
            arrays = {k: Array(a.numpy() + np.float32(place + 0.5)) for k, a in sent.items()}
            content = RecordDict(
                {"arrays": ArrayRecord(arrays), "m": MetricRecord({"num-examples": place + 1})}
            )
            replies.append(Message(content, reply_to=message))
        return replies


def main() -> None:
    if "flwr.supercore.task_identity" in sys.modules:  # newer Flower: a message has a sender
        identity: Any = sys.modules["flwr.supercore.task_identity"].TaskIdentity
        identity.run_id, identity.node_id, identity.task_id = 1, 1, 1
    random.seed(0)  # Flower draws its clients from it
    app = ServerApp()

    @app.main()
    def run(grid: Grid, context: Context) -> None:
        draw = np.random.default_rng(0)
        arrays = {k: Array(draw.standard_normal(s).astype("f4")) for k, s in SHAPES.items()}
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=3)
        strategy.start(grid=grid, initial_arrays=ArrayRecord(arrays), num_rounds=2)

    tapped(app, sys.argv[1])(Nodes(), Context(1, 0, {}, RecordDict(), {}))
    print("came along:", *[name for name in HEAVY if sys.modules.get(name)])


if __name__ == "__main__":
    main()
