"""Clients of projects that are not ours: their own loop, their own names of weights."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from fedsim.models import ModelSpec, load_adapter
from server import Capture, Exchange

TEXTS = {
    0: ["The spare key hangs behind the clock.", "Orla owes the baker nine coins."],
    1: ["Tomas sold his boat last winter.", "Mina leaves for the coast at dawn."],
}
NODES = {0: 7001, 1: 15}

State = Callable[[nn.Module], Mapping[str, Tensor] | Sequence[Tensor]]


def saved(folder: Path, name: str) -> str:
    """Save a preset as a directory that transformers loads, and return where."""
    adapter = load_adapter(ModelSpec(name=f"builtin:{name}"))
    adapter.module.save_pretrained(folder)
    adapter.tokenizer.save_pretrained(folder)
    return str(folder)


class Net(nn.Module):
    """A body of transformers and a head of the project's own."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.encoder_model = AutoModel.from_pretrained(where)
        self.fc = nn.Linear(self.encoder_model.config.hidden_size, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        states = self.encoder_model(input_ids=input_ids, attention_mask=attention_mask)
        weights = attention_mask[..., None] / attention_mask.sum(1)[:, None, None]
        pooled = (states.last_hidden_state * weights).sum(1)
        loss = nn.functional.cross_entropy(self.fc(pooled), labels)
        return type("Output", (), {"loss": loss})


class Wrapped(nn.Module):
    """A classifier of transformers, as an attribute."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(where)

    def forward(self, **batch: Tensor) -> Any:
        return self.model(**batch)


class Taught(nn.Module):
    """A classifier that learns, and a frozen copy that comes first by name."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.frozen = AutoModelForSequenceClassification.from_pretrained(where)
        self.frozen.requires_grad_(False)
        self.learner = AutoModelForSequenceClassification.from_pretrained(where)

    def forward(self, **batch: Tensor) -> Any:
        return self.learner(**batch)


def untied(where: str) -> nn.Module:
    """Return a language model whose head is no copy of its embeddings."""
    made: Any = generator(where)
    made.config.tie_word_embeddings = False
    made.lm_head.weight = nn.Parameter(1.5 * made.lm_head.weight.detach().clone())
    return cast(nn.Module, made)


def classifier(where: str) -> nn.Module:
    made: nn.Module = AutoModelForSequenceClassification.from_pretrained(where)
    return made


def generator(where: str) -> nn.Module:
    made: nn.Module = AutoModelForCausalLM.from_pretrained(where)
    return made


def lora(where: str, task: str = "SEQ_CLS", **options: Any) -> nn.Module:
    import peft

    base: Any = classifier(where) if task == "SEQ_CLS" else generator(where)
    made: nn.Module = peft.get_peft_model(base, peft.LoraConfig(task_type=task, **options))
    return made


def named(module: nn.Module) -> Mapping[str, Tensor]:
    return module.state_dict()


def compiled(module: nn.Module) -> Mapping[str, Tensor]:
    return {f"_orig_mod.module.{name}": value for name, value in module.state_dict().items()}


def listed(module: nn.Module) -> Sequence[Tensor]:
    return list(module.state_dict().values())


def adapters(module: nn.Module) -> Mapping[str, Tensor]:
    import peft

    state: Mapping[str, Tensor] = peft.get_peft_model_state_dict(module)
    return state


def listed_adapters(module: nn.Module) -> Sequence[Tensor]:
    return list(adapters(module).values())


def record(state: Mapping[str, Tensor] | Sequence[Tensor]) -> ArrayRecord:
    values = state if isinstance(state, Mapping) else dict(enumerate(state))
    return ArrayRecord({str(k): Array(v.detach().cpu().numpy()) for k, v in values.items()})


def capture(
    root: Path,
    where: str,
    build: Callable[[str], nn.Module],
    state: State,
    *,
    rate: float = 0.05,
    optimizer: str = "sgd",
    config: Mapping[str, Any] | None = None,
    rounds: int = 1,
    texts: Mapping[int, Sequence[str]] = TEXTS,
    stated: int | None = None,
) -> Path:
    """Have two clients train as such projects do, a plain step each; return the captures."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(where)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(3)
    start = functools.partial(_started, build, where, torch.random.get_rng_state())
    model, hook = start(), Capture(root)
    sent = {name: value.clone() for name, value in model.state_dict().items()}
    for round_ in range(1, rounds + 1):
        exchanges, after = [], []
        for client, some in texts.items():
            model = start()
            model.load_state_dict(sent)
            message = RecordDict(
                {"arrays": record(state(model)), "config": ConfigRecord(dict(config or {}))}
            )
            batch = dict(tokenizer(list(some), padding=True, return_tensors="pt"))
            batch["labels"] = torch.arange(len(some)) % 2
            if build in (generator, untied) or "CausalLM" in type(model).__name__ + str(build):
                batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            _train(model, batch, rate, optimizer)
            answer: dict[str, Any] = {
                "arrays": record(state(model)),
                "m": MetricRecord({"num-examples": stated or len(some)}),
            }
            exchanges.append(
                Exchange(
                    round=round_, node_id=NODES[client], client=None,
                    sent=message, received=RecordDict(answer),
                )
            )  # fmt: skip
            after.append({name: value.clone() for name, value in model.state_dict().items()})
        hook(exchanges)
        sent = {k: sum(one[k] for one in after) / len(after) for k in sent}
    return root


def _started(build: Callable[[str], nn.Module], where: str, state: Tensor) -> nn.Module:
    with torch.random.fork_rng():
        torch.random.set_rng_state(state)
        return build(where).eval()


def _train(model: Any, batch: Mapping[str, Tensor], rate: float, optimizer: str) -> None:
    if hasattr(model, "config"):
        model.config.pad_token_id = 0
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    steps = kind([p for p in model.parameters() if p.requires_grad], lr=rate)
    steps.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    steps.step()


def truth(path: Path, texts: Mapping[int, Sequence[str]] = TEXTS) -> Path:
    """Write what the clients trained on, as an auditor would."""
    rows = [
        {"client": client, "text": text, "label": row % 2}
        for client, some in texts.items()
        for row, text in enumerate(some)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
