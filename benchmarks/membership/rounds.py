"""Claim: who was trained on is recognised in rounds as people train, and nobody else.

    python benchmarks/run.py membership/rounds [--clients 20] [--only minilm ...] [--smollm2 DIR]

Each cell is a setting: clients of one round, each with texts of its own; the attack is asked about
them, outsiders, one-token twins and another client's texts (``fedsim.lab.run.candidates``). The
attack's numbers were chosen on Rotten Tomatoes (MiniLM) and on three other Alpaca rows (SmolLM2);
the cells are of SST-2 and of Alpaca rows that were not looked at. Writes
results/membership_rounds.json after each client.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common.places import DATA
from common.results import Cell, Results, arguments, markdown, start
from common.victims import Victim, client_update, victim

from attacks import Membership
from clients.data import DataSettings, load_corpus
from clients.holdings import encode
from fedsim.lab.run.candidates import Question, Reserve, question
from fedsim.lab.scoring.membership import Answers, intervals, rate_interval
from fedsim.lab.store.attempts import AttackRecord
from fedsim.messages import Broadcast, Knowledge, Observation, Reconstruction, Texts
from fedsim.models import ModelAdapter, ModelSpec
from fedsim.rng import global_stream, stream
from fedsim.training import Examples, TrainingSettings

MINILM = str(DATA / "models" / "all-MiniLM-L6-v2-fp16")
LORA = {"lora_rank": 16, "lora_alpha": 32, "lora_targets": ("query", "value"), "lora_dropout": 0.05}
ADAM = {"algorithm": "fedavg", "optimizer": "adamw", "learning_rate": 5e-5, "dropout": True}
ALPACA = "### Response:"
SOURCES: dict[str, DataSettings] = {
    "sst2": DataSettings(name="sst2", path=str(DATA / "datasets" / "sst2"), evaluate=0),
    "alpaca": DataSettings(name=str(DATA / "datasets" / "alpaca" / "alpaca_5000.json"), evaluate=0),
}


@dataclass(frozen=True)
class Setting:
    """A model, how its clients train, on how many texts of what."""

    model: dict[str, Any]
    training: dict[str, Any]
    examples: int
    reserve: int = 1000
    data: str = "sst2"
    length: int = 32
    least: int = 20  # characters of a text: SST-2 has phrases of a word


CELLS: dict[str, Setting] = {
    "minilm, LoRA 16, AdamW 16 x 10, dropout": Setting(
        {"name": MINILM, **LORA}, {**ADAM, "mini_batch_size": 16}, 160
    ),
    "the same, 225 public texts": Setting(
        {"name": MINILM, **LORA}, {**ADAM, "mini_batch_size": 16}, 160, reserve=450
    ),
    "the same, 100 public texts": Setting(
        {"name": MINILM, **LORA}, {**ADAM, "mini_batch_size": 16}, 160, reserve=200
    ),
    "minilm, full, AdamW 16 x 10, dropout": Setting(
        {"name": MINILM}, {**ADAM, "mini_batch_size": 16}, 160
    ),
    "minilm, LoRA 16, SGD 4 x 10": Setting(
        {"name": MINILM, **LORA},
        {"algorithm": "fedavg", "mini_batch_size": 4, "learning_rate": 1e-2},
        40,
    ),
    "minilm, full, SGD 8 x 5": Setting(
        {"name": MINILM},
        {"algorithm": "fedavg", "mini_batch_size": 8, "learning_rate": 1e-2},
        40,
    ),
    "minilm, full, FedSGD 64": Setting({"name": MINILM}, {}, 64),
    "minilm, full, FedSGD 64, dropout": Setting({"name": MINILM}, {"dropout": True}, 64),
}
SMOLLM2 = "SmolLM2-135M"
Q_AND_V = ("q_proj", "v_proj")


def smollm2(folder: Path) -> dict[str, Setting]:
    """Return the projects' own rounds on a trained language model (``examples/practice``)."""
    model = {"name": str(folder), "task": "causal-lm", "response": ALPACA, "lora_targets": Q_AND_V}
    wide = {**model, "lora_rank": 32, "lora_alpha": 64, "lora_dropout": 0.075}
    small = {**model, "lora_rank": 8, "lora_alpha": 16}
    flowertune = {**ADAM, "mini_batch_size": 16, "max_grad_norm": 1.0}
    scope = {"algorithm": "fedavg", "mini_batch_size": 1, "learning_rate": 3e-4, "dropout": True}
    pfl = {"algorithm": "fedavg", "mini_batch_size": 4, "learning_rate": 0.01, "max_grad_norm": 1.0}
    alpaca: dict[str, Any] = {"reserve": 450, "data": "alpaca", "length": 96, "least": 0}
    return {
        f"{SMOLLM2}, LoRA 32, AdamW 16 x 10, clip 1, dropout, response only": Setting(
            wide, flowertune, 160, **alpaca
        ),
        f"{SMOLLM2}, LoRA 8, SGD 1 x 30, dropout, response only": Setting(
            {**small, "lora_dropout": 0.05}, scope, 30, **alpaca
        ),
        f"{SMOLLM2}, LoRA 8, SGD 4 x 4, clip 1, response only": Setting(small, pfl, 16, **alpaca),
    }


def texts_of(adapter: ModelAdapter, setting: Setting, seed: int) -> Texts:
    """Return the data's different texts, in an order of the seed's."""
    rows = load_corpus(SOURCES[setting.data], seed).train
    labels = rows["label"][:] if "label" in rows.column_names else [None] * len(rows)
    pairs = dict(zip(rows["text"][:], labels, strict=True))
    pairs = {text: label for text, label in pairs.items() if len(text) >= setting.least}
    order = torch.randperm(len(pairs), generator=stream(seed, "order")).tolist()[:20_000]
    names = list(pairs)
    made = encode(
        adapter, [names[row] for row in order], [pairs[names[row]] for row in order],
        setting.length,
    )  # fmt: skip
    unique = {tokens: label for tokens, label in zip(made.sequences, made.labels, strict=True)}
    return Texts(sequences=tuple(unique), labels=tuple(unique.values()))


def measure(name: str, setting: Setting, options: argparse.Namespace, results: Results) -> None:
    """Attack one client after the other; write after each."""
    settings = {"seed": options.seed, "clients": options.clients}
    if results.known(name, settings) is not None:
        return
    who = victim(ModelSpec(**{"task": "classification", **setting.model}))
    texts = texts_of(who.adapter, setting, options.seed)
    reserve = Reserve.of(texts.take(range(setting.reserve)), options.seed, setting.examples)
    answers: list[Answers] = []
    spent: list[float] = []
    for client in range(options.clients):
        first = setting.reserve + client * setting.examples
        members = texts.take(range(first, first + setting.examples))
        others = texts.take(range(first + setting.examples, first + setting.examples + 100))
        lot = stream(options.seed, "asked", client)
        asked = question(who.adapter, members, others, reserve, lot)
        said, seconds = attacked(who, setting, members, asked, reserve, options.seed, client)
        answers.append(Answers.of(as_record(asked, said)))
        spent.append(seconds)
        cell = figures(answers, spent, dict(said.diagnostics), options.seed)
        cell |= {"public": len(reserve.public), "examples": setting.examples}
        cell |= {"tokens": sum(map(len, members.sequences))}
        done = client + 1 == options.clients
        results.add(name, settings if done else {"clients": client + 1}, cell)
        results.write(table=table(results))
        print(name, client, cell, flush=True)


def attacked(
    who: Victim,
    setting: Setting,
    members: Texts,
    asked: Question,
    reserve: Reserve,
    seed: int,
    client: int,
) -> tuple[Reconstruction, float]:
    """Return what the attack says of a client that trains on ``members``, and its seconds."""
    training = TrainingSettings(**setting.training)
    examples = Examples(sequences=members.sequences, labels=members.labels)
    with global_stream(seed, "client", client):
        update = client_update(who, examples, training, stream(seed, "client", client))
    seen = Observation(
        model=who.adapter,
        broadcast=Broadcast(round=1, parameters=who.parameters, config=training.as_config()),
        update=update,
        knowledge=asked.granted(Knowledge(), reserve.public),
    )
    begun = time.process_time()
    said = Membership().reconstruct(seen, stream(seed, "attack", client))
    return said, time.process_time() - begun


def as_record(asked: Question, said: Reconstruction) -> AttackRecord:
    """Return an answer as a run notes it."""
    return AttackRecord(
        attack="membership", role="attack", round=1, client=0, seconds=0.0, sequences=[],
        texts=[], asked=list(asked.asked), scores=list(said.scores), members=list(said.members),
    )  # fmt: skip


def figures(
    answers: Sequence[Answers], spent: Sequence[float], notes: dict[str, Any], seed: int
) -> Cell:
    """Return the figures of a cell, with intervals over clients."""
    cell: Cell = {"of": len(answers)}
    for key, value in intervals(answers, seed).items():
        cell[key] = [round(part, 4) for part in (value.mean, value.low, value.high)]
    for kind in ("other", "twin"):
        called = [list(one.called[kind]) for one in answers if len(one.called[kind])]
        if called:
            rate = rate_interval(called, seed)
            cell[f"{kind}s_called"] = [round(x, 4) for x in (rate.mean, rate.low, rate.high)]
    cell["first_seconds"] = round(spent[0], 1)
    if len(spent) > 1:
        cell["next_seconds"] = round(sum(spent[1:]) / (len(spent) - 1), 1)
    return cell | {"notes": notes}


COLUMNS = ("auc", "tpr", "fpr", "tpr_at_1pct_fpr", "others_called", "beats_twin")


def table(results: Results) -> str:
    """Return the figures of each setting."""
    rows = [
        [name, cell["of"], *(cell.get(key, ["-"])[0] for key in COLUMNS), cell["first_seconds"],
         cell.get("next_seconds", "-")]
        for name, cell in results.cells.items()
    ]  # fmt: skip
    head = ["setting", "clients", *COLUMNS, "first, s", "next, s"]
    return markdown(head, rows)


def main() -> None:
    """Measure the settings asked for."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--clients", type=int, default=20, help="of each setting")
    parser.add_argument("--only", nargs="+", default=[], help="settings that begin so")
    parser.add_argument("--smollm2", type=Path, help="the directory of the model's weights")
    parser.set_defaults(threads=1)
    options = parser.parse_args()
    results = start(options, "membership_rounds", "who was trained on is recognised")
    cells = dict(CELLS)
    if options.smollm2:
        cells |= smollm2(options.smollm2)
    for name, setting in cells.items():
        if not options.only or any(name.startswith(some) for some in options.only):
            measure(name, setting, options, results)
    print(table(results))


if __name__ == "__main__":
    main()
