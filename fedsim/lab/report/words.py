"""What figures mean, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.lab.config import Config
from fedsim.lab.store.figures import Verdict
from fedsim.lab.store.summary import Summary

WORST: Sequence[Verdict] = ("leak", "inconclusive", "no-leak")
GRANTED = {
    "labels": "the label of each text",
    "lengths": "the length of each text in tokens",
    "batch_size": "how many texts were in the batch",
    "candidates": "texts, some of which the client trained on",
    "public": "texts like the clients' that no client holds",
}
LEAKS = "It leaks"  # how each sentence on a leak begins
PROTOCOL = (
    "Only what the protocol gives the server: the weights and settings it sent, and each client's "
    "update, example count and reported metrics."
)
CONTROLS = (
    "A score means something only above what is had without the update. No gradient: unrelated "
    "sentences, scored alike. Other update: what the same attack read in another client's update. "
    "Positive: the same attack on an undefended update of public sentences, made in the shape of "
    "the client's batch; where that fails, neither silence nor a reading proves anything, and the "
    "verdict is inconclusive."
)
PRIVATE = (
    "Found by rules, in the clients' texts and in what was read of the same update. Names are "
    "capitalised words in a row, or one after a title or beside an initial: lower-cased "
    "text, single names and scripts without capitals have none by these rules (where no text has "
    "a capital they are not counted), "
    "and a place or a firm may count as a name. Dates need a day and a month; telephone "
    "numbers have 7 to 15 digits. “Invented” is the share of "
    "what the attack put out that is nowhere in that update; “by chance” is what its reading "
    "of another client's update would have scored. Other kinds (addresses, diagnoses, "
    "file numbers) are not counted."
)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict that a reader must know first; ``inconclusive`` for none."""
    return next((verdict for verdict in WORST if verdict in verdicts), "inconclusive")


def headline(verdict: Verdict, attack: str, exact: int, samples: int) -> str:
    """Return the verdict as a sentence; ``attack`` is the one that read most."""
    if not attack:
        return "Nothing was attacked, so nothing is known about leaks."
    if verdict == "leak" and exact:
        return f"It leaks: {attack} read {exact} of {samples} texts word for word."
    if verdict == "leak":
        return f"It leaks: {attack} read more of the clients' text than chance can explain."
    if verdict == "no-leak":
        return (
            "No leak was found: attacks of each kind that applies here work, and read no more "
            "than chance."
        )
    return "Inconclusive: this neither shows a leak nor that there is none."


def knowledge(granted: Mapping[str, Any]) -> str:
    """Return what an attack was told beyond the protocol."""
    names = [GRANTED.get(name, name) for name, given in granted.items() if given]
    return f"Also granted: {', '.join(names)}." if names else "Nothing more."


def settings(values: Mapping[str, Any]) -> str:
    """Return an attack's or a defense's parameters on one line."""
    return ", ".join(f"{name} = {value}" for name, value in values.items()) or "no parameters"


def weights(config: Config) -> str:
    """Return whose weights the model started from."""
    random = config.model.weights == "random" or config.model.name.startswith("builtin:")
    return "random weights" if random else "pretrained weights"


def subtitle(config: Config) -> str:
    """Return what was trained, on what, how, in one line."""
    federation, training = config.federation, config.training
    rounds = "1 round" if federation.rounds == 1 else f"{federation.rounds} rounds"
    algorithm = {"fedsgd": "FedSGD", "fedavg": "FedAvg"}[training.algorithm]
    return (
        f"{config.model.name} ({weights(config)}) · {config.data.name} · {rounds} of {algorithm}, "
        f"{federation.clients_per_round} of {federation.clients} clients each"
    )


def _amount(config: Config) -> str:
    """Return how much a client trains in a round, in words."""
    steps, epochs = config.training.max_steps, config.training.local_epochs
    return f"{steps} local steps" if steps else f"{epochs} local epochs"


def facts(config: Config, summary: Summary) -> list[tuple[str, str]]:
    """Return what was attacked, what the attacker knew."""
    model, training = config.model, config.training
    local = f"batch of {training.batch_size or 'all a client holds'}"
    if training.algorithm == "fedavg":
        local += (
            f", {_amount(config)} in mini-batches of "
            f"{training.mini_batch_size}, {training.optimizer}"
        )
    parts = [f"{model.name}, {weights(config)}, {model.task}"]
    parts += [f"LoRA of rank {model.lora_rank}"] if model.lora_rank else []
    parts += [f"frozen: {', '.join(model.freeze)}"] if model.freeze else []
    kind = "gradients" if training.algorithm == "fedsgd" else "weight deltas"
    defenses = [
        f"{section.name} ({settings(section.parameters)})" if section.parameters else section.name
        for section in config.defense
    ]
    attacks = {entry.attack: entry for entry in summary.attacks}
    return [
        ("Model", "; ".join(parts)),
        ("Data", f"{config.data.name}, {config.data.partition}, at most "
                 f"{config.data.max_length} tokens a text"),
        ("Sent by clients", f"{kind} in {training.wire_dtype}, {local}, learning rate "
                            f"{training.learning_rate:g}, dropout "
                            f"{'on' if training.dropout else 'off'}"),
        ("Defense", ", ".join(defenses)),
        ("The attacker sees", PROTOCOL),
        *(
            (f"{name} is told", f"{knowledge(entry.knowledge)} Its parameters: "
                                f"{settings(entry.settings)}.")
            for name, entry in attacks.items()
        ),
    ]  # fmt: skip


def percent(share: float) -> str:
    """Return a share as a percentage; only a whole 1 is 100 %, only a 0 is 0 %."""
    shown = 100 * share
    digits = 1 if 99 < shown < 100 or 0 < shown < 1 else 0
    return f"{shown:.{digits}f} %"
