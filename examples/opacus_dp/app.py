"""Flower's Opacus example, tapped: a BERT inside the project's own module, DP-SGD.

In the shape of examples/opacus of flwrlabs/flower, which trains a small vision model: SGD with
momentum, noise that differs by client, the privacy engine anew in each round. ``--plain`` is the
control: the same clients without Opacus, plain SGD, dropout off.

    python examples/opacus_dp/app.py work [--plain] [--model DIRECTORY]
"""

import sys
import warnings
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer

from fedsim.tap import TruthNotes, tapped

sys.path.append(str(Path(__file__).parents[1]))
from common import ROWS, options, partition, run, say_next

RATE, DELTA, NORM = 0.05, 1e-5, 1.0
NOISE = (1.0, 1.5)  # of even and of odd clients
warnings.filterwarnings("ignore", module="opacus")
warnings.filterwarnings("ignore", message="Full backward hook")


class Net(nn.Module):
    """A BERT and a head of the project's own; the embeddings do not train, as Opacus' tutorial."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.bert = AutoModel.from_pretrained(where, add_pooling_layer=False)
        self.bert.embeddings.requires_grad_(False)
        self.head = nn.Linear(self.bert.config.hidden_size, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        return self.head(states.last_hidden_state[:, 0])


def client_app(where: str, truth: TruthNotes, plain: bool) -> ClientApp:
    app = ClientApp()

    @app.train(mods=[truth])
    def train(message: Message, context: Context) -> Message:
        client = partition(context)
        texts, labels = [list(column) for column in zip(*ROWS[client], strict=True)]
        truth.note(texts, labels)
        batch = AutoTokenizer.from_pretrained(where)(texts, padding=True, return_tensors="pt")
        rows = list(zip(batch["input_ids"], batch["attention_mask"], labels, strict=True))
        loader = DataLoader(rows, batch_size=len(rows))
        net = Net(where)
        net.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=True)
        net.train(not plain)
        rate = float(message.content["config"]["lr"])
        momentum = 0.0 if plain else 0.9
        trained = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=rate, momentum=momentum)
        metrics = {"num-examples": len(rows)}
        if plain:
            step(net, optimizer, loader)
        else:
            engine = PrivacyEngine(secure_mode=False)
            private, optimizer, loader = engine.make_private(
                module=net, optimizer=optimizer, data_loader=loader,
                noise_multiplier=NOISE[client % 2], max_grad_norm=NORM,
            )  # fmt: skip
            step(private, optimizer, loader)
            metrics["epsilon"] = float(engine.get_epsilon(delta=DELTA))
        content = RecordDict(
            {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord(metrics)}
        )
        return Message(content, reply_to=message)

    return app


def step(net: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    """Train on each batch once."""
    for ids, mask, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(ids, mask), labels).backward()
        optimizer.step()


def server_app(where: str) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        FedAvg(fraction_evaluate=0.0).start(
            grid=grid, initial_arrays=ArrayRecord(Net(where).state_dict()),
            num_rounds=1, train_config=ConfigRecord({"lr": RATE}),
        )  # fmt: skip

    return app


def main() -> None:
    said = options(__doc__, "bert-tiny")
    app = server_app(said.model)
    app = tapped(app, said.work / "captures")  # this line lets fedsim look
    run(app, client_app(said.model, TruthNotes(said.work / "truth"), said.plain))
    kind, dropout = ("sgd", "false") if said.plain else ("momentum", "true")
    words = [f"training.optimizer={kind}", f"training.dropout={dropout}"]
    say_next(said, *words, "training.local_epochs=1", "training.mini_batch_size=2")


if __name__ == "__main__":
    main()
