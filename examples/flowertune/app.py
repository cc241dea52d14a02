"""FlowerTune, tapped: LoRA by peft on a causal language model, and adapters alone travel.

In the shape of examples/flowertune-llm of flwrlabs/flower: ``get_peft_model_state_dict``,
AdamW, alpha = 2 r, a cosine over the rounds, a loss on the response alone. ``--plain`` is the
control: plain SGD, dropout off. Prompts are short, so that there are fewer tokens than the rank.

    python examples/flowertune/app.py work [--plain] [--model DIRECTORY]
"""

import math
import sys
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedsim.tap import TruthNotes, tapped

sys.path.append(str(Path(__file__).parents[1]))
from common import options, partition, run, say_next

ROUNDS, RANK, STEPS = 2, 64, 1
RATE = {"adamw": (5e-5, 1e-6), "sgd": (0.5, 0.1)}  # of the first round and of the last
PAIRS = [  # a client's instructions and responses
    [("Name a fruit.", " Figs."), ("Who has the key?", " Orla.")],
    [("Say when we meet.", " At dawn."), ("Guess my debt.", " Nine coins.")],
    [("Where is the will?", " In the piano."), ("What opens it?", " A hairpin.")],
]
Encoded = tuple[list[int], int]  # token ids, and how many of them are the prompt's


def model_from(where: str, dropout: float) -> torch.nn.Module:
    base = AutoModelForCausalLM.from_pretrained(where)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, lora_dropout=dropout, task_type="CAUSAL_LM",
        target_modules=["q_proj", "v_proj"],
    )  # fmt: skip
    return get_peft_model(base, config)


def cosine(round_: int, most: float, least: float) -> float:
    return least + 0.5 * (most - least) * (1 + math.cos(math.pi * round_ / ROUNDS))


def batch_of(tokenizer: AutoTokenizer, pairs: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Return whole texts, padded, with labels on the responses alone."""
    texts = [prompt + response for prompt, response in pairs]
    batch = dict(tokenizer(texts, padding=True, padding_side="right", return_tensors="pt"))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, (prompt, _) in enumerate(pairs):
        labels[row, : len(tokenizer(prompt)["input_ids"])] = -100
    return {**batch, "labels": labels}


def client_app(where: str, truth: TruthNotes, plain: bool) -> ClientApp:
    app = ClientApp()

    @app.train(mods=[truth])
    def train(message: Message, context: Context) -> Message:
        pairs = PAIRS[partition(context)]
        truth.note([prompt + response for prompt, response in pairs])
        tokenizer = AutoTokenizer.from_pretrained(where)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model = model_from(where, dropout=0.0 if plain else 0.075)
        set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
        model.train(not plain)
        rates = RATE["sgd" if plain else "adamw"]
        rate = cosine(int(message.content["config"]["server-round"]) - 1, *rates)
        kind = torch.optim.SGD if plain else torch.optim.AdamW
        optimizer = kind([p for p in model.parameters() if p.requires_grad], lr=rate)
        batch = batch_of(tokenizer, pairs)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        metrics = MetricRecord({"num-examples": len(pairs)})
        arrays = ArrayRecord(get_peft_model_state_dict(model))
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def server_app(where: str) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        arrays = ArrayRecord(get_peft_model_state_dict(model_from(where, dropout=0.0)))
        FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=arrays, num_rounds=ROUNDS)

    return app


def main() -> None:
    said = options(__doc__, "llama-tiny", "causal-lm")
    app = server_app(said.model)
    app = tapped(app, said.work / "captures")  # this line lets fedsim look
    run(app, client_app(said.model, TruthNotes(said.work / "truth"), said.plain))
    kind = "sgd" if said.plain else "adamw"
    words = [f"training.learning_rate={RATE[kind][0]}", f"training.optimizer={kind}"]
    say_next(said, f"model.lora_alpha={2 * RANK}", *words)


if __name__ == "__main__":
    main()
