"""A stock Flower app that fine-tunes a small GPT-2, and the one line that lets fedsim look.

It knows nothing of fedsim but ``TapGrid`` and ``Capture`` in the server's main function. Run it,
then attack what the server saw:

    python examples/stock_flower/app.py work
    fedsim attack work/captures --attack dager model.name=work/model
"""

import sys
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

from fedsim.tap import Capture, TapGrid

CLIENTS = 2
TEXTS = [  # (client, text, label)
    (0, "The blue folder with the Lindqvist contract is in my left drawer.", 0),
    (0, "Transfer the deposit before Friday or we lose the house.", 1),
    (0, "Ask Ottoline whether her passport arrived.", 0),
    (1, "The alarm code of the workshop is the year we met.", 1),
    (1, "Pavel will bring the keys at half past six.", 0),
    (1, "Nobody must know that the factory closes in spring.", 1),
]


def make_model(directory: Path) -> None:
    """Write a model with random weights and its tokenizer, as any project has them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text for _, text, _ in TEXTS], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(fast), n_positions=128, n_embd=128, n_layer=4, n_head=4, pad_token_id=0,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(directory)
    fast.save_pretrained(directory)


def client_app(directory: Path) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        model = AutoModelForSequenceClassification.from_pretrained(directory)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        mine = [row for row in TEXTS if row[0] == int(context.node_config["partition-id"])]
        tokenizer = AutoTokenizer.from_pretrained(directory)
        batch = tokenizer([text for _, text, _ in mine], padding=True, return_tensors="pt")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = model(**batch, labels=torch.tensor([label for *_, label in mine])).loss
        loss.backward()
        optimizer.step()
        content = RecordDict(
            {
                "arrays": ArrayRecord(model.state_dict()),
                "metrics": MetricRecord({"num-examples": len(mine), "loss": loss.item()}),
            }
        )
        return Message(content, reply_to=message)

    return app


def server_app(directory: Path, captures: Path) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(directory)
        strategy = FedAvg(fraction_evaluate=0.0)
        strategy.start(
            grid=TapGrid(grid, [Capture(captures)]),  # this line lets fedsim look
            initial_arrays=ArrayRecord(model.state_dict()),
            num_rounds=1,
        )

    return app


def main() -> None:
    work = Path(sys.argv[1] if len(sys.argv) > 1 else "work").absolute()
    make_model(work / "model")
    run_simulation(
        server_app(work / "model", work / "captures"),
        client_app(work / "model"),
        num_supernodes=CLIENTS,
        backend_config={
            "client_resources": {"num_cpus": 1},
            "init_args": {"include_dashboard": False},
        },
    )
    print(f"captured: {sorted(str(p) for p in (work / 'captures').glob('*/*'))}")


if __name__ == "__main__":
    main()
