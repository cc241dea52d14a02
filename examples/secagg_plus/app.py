"""Flower's SecAgg+ workflow, tapped: each client's arrays travel beneath masks.

In the shape of examples/flower-secure-aggregation of flwrlabs/flower, which trains a small vision
model. Only the sum of a round is in clear, so no attack takes what was captured of a client.

    python examples/secagg_plus/app.py work [--model DIRECTORY]
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.client import Client, ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import Grid, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedsim.tap import Capture, TapGrid

sys.path.append(str(Path(__file__).parents[1]))
from common import ROWS, options, partition, run, say_next

RATE, MOST = 0.05, 8  # MOST: examples a client
Arrays = list[np.ndarray]


def model_from(where: str) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(where, num_labels=2)


def weights_of(model: torch.nn.Module) -> Arrays:
    return [value.numpy() for value in model.state_dict().values()]


class TextClient(NumPyClient):
    """Takes one step on its texts; the mod around it masks what it sends."""

    def __init__(self, where: str, rows: list[tuple[str, int]]) -> None:
        self.where, self.rows = where, rows

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> tuple[Arrays, int, dict[str, Any]]:
        texts, labels = [list(column) for column in zip(*self.rows, strict=True)]
        model = model_from(self.where)
        names = model.state_dict()
        model.load_state_dict(
            {name: torch.tensor(array) for name, array in zip(names, parameters, strict=True)}
        )
        batch = AutoTokenizer.from_pretrained(self.where)(texts, padding=True, return_tensors="pt")
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        model(**batch, labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
        return weights_of(model), len(texts), {}


def client_app(where: str) -> ClientApp:
    def client_fn(context: Context) -> Client:
        return TextClient(where, list(ROWS[partition(context)])).to_client()

    return ClientApp(client_fn=client_fn, mods=[secaggplus_mod])


def server_app(where: str, captures: Path) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_evaluate=0.0,
            min_fit_clients=len(ROWS),
            min_available_clients=len(ROWS),
            initial_parameters=ndarrays_to_parameters(weights_of(model_from(where))),
        )
        legacy = LegacyContext(context, config=ServerConfig(num_rounds=1), strategy=strategy)
        masked = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2, max_weight=MOST)
        workflow = DefaultWorkflow(fit_workflow=masked)
        workflow(TapGrid(grid, [Capture(captures)]), legacy)  # this line lets fedsim look

    return app


def main() -> None:
    said = options(__doc__, "bert-tiny")
    run(server_app(said.model, said.work / "captures"), client_app(said.model))
    say_next(said)


if __name__ == "__main__":
    main()
