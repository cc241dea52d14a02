"""Flower's Hugging Face quickstart, tapped: a classifier whose state dict travels.

In the shape of examples/quickstart-huggingface of flwrlabs/flower: AdamW, dropout on, and
``num-examples`` counts mini-batches. ``--plain`` is the control: plain SGD, dropout off.

    python examples/quickstart_huggingface/app.py work [--plain] [--model DIRECTORY]
"""

import sys
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from fedsim.tap import TruthNotes, tapped

sys.path.append(str(Path(__file__).parents[1]))
from common import ROWS, options, partition, run, say_next

BATCH = 32  # so that a client's few texts are one mini-batch
RATE = {"adamw": 5e-5, "sgd": 0.05}


def model_from(where: str) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(where, num_labels=2)


def client_app(where: str, truth: TruthNotes, plain: bool) -> ClientApp:
    app = ClientApp()

    @app.train(mods=[truth])
    def train(message: Message, context: Context) -> Message:
        rows = ROWS[partition(context)]
        texts, labels = [text for text, _ in rows], [label for _, label in rows]
        truth.note(texts, labels)  # on the client's own machine, for the audit
        model = model_from(where)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=True)
        tokenizer = AutoTokenizer.from_pretrained(where)
        examples = [{**tokenizer(text, truncation=True), "labels": label} for text, label in rows]
        loader = DataLoader(
            examples, batch_size=BATCH, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer)
        )
        model.train(not plain)
        kind = torch.optim.SGD if plain else torch.optim.AdamW
        optimizer = kind(model.parameters(), lr=RATE["sgd" if plain else "adamw"])
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        metrics = MetricRecord({"num-examples": len(loader)})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def server_app(where: str) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        arrays = ArrayRecord(model_from(where).state_dict())
        FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=arrays, num_rounds=1)

    return app


def main() -> None:
    said = options(__doc__, "bert-tiny")
    app = server_app(said.model)
    app = tapped(app, said.work / "captures")  # this line lets fedsim look
    run(app, client_app(said.model, TruthNotes(said.work / "truth"), said.plain))
    kind = "sgd" if said.plain else "adamw"
    words = [f"training.learning_rate={RATE[kind]}", f"training.optimizer={kind}"]
    say_next(said, *words, "data.num_examples=0")  # for it counts mini-batches


if __name__ == "__main__":
    main()
