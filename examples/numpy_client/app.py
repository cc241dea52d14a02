"""A project of Flower's legacy API, tapped: a NumPyClient sends its weights as a list of arrays.

``server_fn`` leaves no grid to wrap, and the arrays have no names. The server tells its clients
the learning rate. Adam and dropout, as many projects do; ``--plain`` is the control: plain SGD,
dropout off.

    python examples/numpy_client/app.py work [--plain] [--model DIRECTORY]
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.client import Client, ClientApp, NumPyClient
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedsim.tap import TruthNotes, tapped

sys.path.append(str(Path(__file__).parents[1]))
from common import ROWS, options, partition, run, say_next

ROUNDS = 2
Arrays = list[np.ndarray]


def model_from(where: str) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(where, num_labels=2)


def weights_of(model: torch.nn.Module) -> Arrays:
    return [value.numpy() for value in model.state_dict().values()]


class TextClient(NumPyClient):
    """Takes one step on its texts."""

    def __init__(self, where: str, rows: list[tuple[str, int]], truth: TruthNotes, plain: bool):
        self.where, self.rows, self.truth, self.plain = where, rows, truth, plain

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> tuple[Arrays, int, dict[str, Any]]:
        texts, labels = [list(column) for column in zip(*self.rows, strict=True)]
        self.truth.note(texts, labels)
        model = model_from(self.where)
        names = model.state_dict()
        model.load_state_dict(
            {name: torch.tensor(array) for name, array in zip(names, parameters, strict=True)}
        )
        tokenizer = AutoTokenizer.from_pretrained(self.where)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        model.train(not self.plain)
        kind = torch.optim.SGD if self.plain else torch.optim.Adam
        optimizer = kind(model.parameters(), lr=float(config["lr"]))
        model(**batch, labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
        return weights_of(model), len(texts), {}


def client_app(where: str, truth: TruthNotes, plain: bool) -> ClientApp:
    def client_fn(context: Context) -> Client:
        return TextClient(where, list(ROWS[partition(context)]), truth, plain).to_client()

    return ClientApp(client_fn=client_fn, mods=[truth])


def server_app(where: str, rate: float) -> ServerApp:
    def server_fn(context: Context) -> ServerAppComponents:
        strategy = FedAvg(
            fraction_evaluate=0.0,
            min_fit_clients=len(ROWS),
            min_available_clients=len(ROWS),
            initial_parameters=ndarrays_to_parameters(weights_of(model_from(where))),
            on_fit_config_fn=lambda round_: {"lr": rate, "local_epochs": 1},
        )
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=ROUNDS))

    return ServerApp(server_fn=server_fn)


def main() -> None:
    said = options(__doc__, "gpt2-tiny")
    app = server_app(said.model, 0.05 if said.plain else 1e-4)
    app = tapped(app, said.work / "captures")  # this line lets fedsim look
    run(app, client_app(said.model, TruthNotes(said.work / "truth"), said.plain))
    say_next(said, f"training.optimizer={'sgd' if said.plain else 'adamw'}")


if __name__ == "__main__":
    main()
