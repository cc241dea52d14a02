"""What can be wrong though every key of a config is right: together, or here."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from clients.data import Corpus
from defenses import DPSGD, Defense
from defenses.base import Private
from fedsim.errors import BadInput, MalformedFile, reading
from fedsim.files import read_text
from fedsim.lab.config import Config
from fedsim.lab.run.controls import own_sequences
from fedsim.lab.run.planned import PlannedAttack
from fedsim.lab.store import layout
from fedsim.lab.store.attempts import AttackRecord
from fedsim.lab.store.rounds import RoundRecord
from fedsim.models import ModelAdapter
from fedsim.rng import stream
from server.secagg import LINEAR

OWN_WORDS = 8  # of a text that is not there by chance
LARGEST = 2**30  # bytes of a file of text


def check_labels(config: Config, corpus: Corpus) -> None:
    """Raise BadInput when there is nothing to classify."""
    labels = len(corpus.label_names)
    if config.model.task == "classification" and labels < 2:
        raise BadInput(
            f"model.task: classification needs labels of at least 2 kinds, {config.data.name!r} "
            f"has {labels}; set data.label_column (columns: {', '.join(corpus.columns)}), or a "
            "task that needs none"
        )


def check_forward(adapter: ModelAdapter) -> None:
    """Raise BadInput when the model cannot be run, or makes no number of a text.

    A config.json may tell sizes that fit the weights and yet no model. One that was trained in this
    process was looked at before, and its weights are no longer those that were read.
    """
    if adapter.loads:
        return
    name = adapter.spec.name
    batch = adapter.batch(own_sequences(adapter, [8, 5]), [0, 1], stream(0, "forward"))
    with reading(f"model.name: {name!r} cannot be run"), torch.no_grad():
        losses = adapter.losses(adapter.module, batch)  # (2,)
    if not losses.isfinite().all():
        raise BadInput(
            f"model.name: the loss of {name!r} is no finite number: a weight or a figure of its "
            "config.json is out of range"
        )


def check_length(config: Config, adapter: ModelAdapter) -> None:
    """Raise BadInput when texts are to be longer than the model takes."""
    if config.data.max_length > adapter.positions:
        raise BadInput(
            f"data.max_length must be at most the model's {adapter.positions} positions, "
            f"got {config.data.max_length}"
        )


def check_reach(planned: PlannedAttack, config: Config) -> None:
    """Raise BadInput when an attack would never be run: silence must not look like safety."""
    limits = {"rounds": config.federation.rounds + 1, "clients": config.federation.clients}
    for name, limit in limits.items():
        beyond = [place for place in getattr(planned, name) if place >= limit]
        if beyond:
            raise BadInput(f"attack.{name}: must be below {limit} here, got {beyond[0]}")


def check_learned(planned: Sequence[PlannedAttack], corpus: Corpus) -> None:
    """Raise BadInput where an attack would learn from the clients' own texts.

    Texts of a few words recur by chance, a heading or an answer, and give nothing away.
    """
    files = [
        (attack, name, Path(path))
        for attack in planned
        for name in attack.attack.learns_from
        if (path := getattr(attack.attack, name))
    ]
    if not files:
        return
    private = {text.strip() for text in corpus.train["text"][:] if isinstance(text, str)}
    for attack, name, path in files:
        with reading(f"attack.{name}: {str(path)!r} cannot be read"):
            lines = [line.strip() for line in read_text(path, most=LARGEST).splitlines()]
        shared = [line for line in lines if line in private and len(line.split()) >= OWN_WORDS]
        if shared:
            raise BadInput(
                f"attack.{name}: {attack.name} must learn from text that is not the clients' own, "
                f"but {len(shared)} lines of {str(path)!r} are, first {shared[0][:40]!r}"
            )


def check_engine(config: Config) -> None:
    """Raise BadInput when Ray could not start a single client: it would wait for one in vain."""
    wanted = config.federation
    have = {"cpus": os.cpu_count() or 1, "gpus": torch.cuda.device_count()}
    asked = {"cpus": wanted.cpus_per_client, "gpus": wanted.gpus_per_client}
    for kind, count in asked.items():
        if wanted.engine == "ray" and not wanted.ray_address and count > have[kind]:
            raise BadInput(
                f"federation.{kind}_per_client must be at most the {have[kind]} there are here, "
                f"got {count:g}"
            )


def check_together(config: Config, defenses: Sequence[Defense]) -> None:
    """Raise BadInput when strategy and defenses want what others keep from the server."""
    strategy = config.federation.strategy
    if any(defense.sums for defense in defenses) and strategy not in LINEAR:
        raise BadInput(
            f"federation.strategy: under secure aggregation there is only a sum, so it must be one "
            f"of {', '.join(LINEAR)}, got {strategy!r}"
        )
    if strategy == "qfedavg" and any(isinstance(defense, Private) for defense in defenses):
        raise BadInput(
            "federation.strategy: qfedavg weighs clients by their training loss, which is not sent "
            "beside a private update; take another"
        )
    if any(defense.sums for defense in defenses) and any(defense.central() for defense in defenses):
        raise BadInput("defense: central-dp clips each update, and secagg hides each; take one")
    low = config.training.compute_dtype
    if low != "float32" and any(isinstance(defense, DPSGD) for defense in defenses):
        raise BadInput(
            f"training.compute_dtype: must be float32 under dp-sgd, which clips each example's "
            f"gradient, got {low!r}"
        )


def check_longer(began: Sequence[Defense], now: Sequence[Defense], config: Config) -> None:
    """Raise BadInput when a run that is to go on longer would have had other rounds before."""
    if config.training.round_lr_scheduler != "constant":
        raise BadInput(
            "federation.rounds: must stay what it was, for training.round_lr_scheduler = "
            f"{config.training.round_lr_scheduler!r} goes by it"
        )
    for before, after in zip(began, now, strict=True):
        if before != after:
            raise BadInput(
                f"federation.rounds: must stay what it was, for {before!r} was settled by it, got "
                f"one that settles {after!r}"
            )


def check_done(done: int, config: Config) -> None:
    """Raise BadInput when a run that goes on has more rounds behind it than it is to have."""
    if done > config.federation.rounds:
        raise BadInput(
            f"federation.rounds: must be at least {done}, the rounds that are done, got "
            f"{config.federation.rounds}"
        )


def check_whole(
    planned: Sequence[PlannedAttack],
    rounds: Sequence[RoundRecord],
    attempts: Sequence[AttackRecord],
    *,
    controls: bool,
) -> None:
    """Raise MalformedFile where an attack on an update is not noted: a leak would look smaller."""
    roles = ("attack", "positive") if controls else ("attack",)
    noted = {
        (attempt.attack, attempt.role, attempt.round, client)
        for attempt in attempts
        for client in attempt.clients or [attempt.client]
    }
    for attack in planned:
        for record in rounds:
            for client in record.clients:
                for role in roles if attack.wants(record.round, (client,)) else ():
                    if (attack.name, role, record.round, client) not in noted:
                        what = "positive control" if role == "positive" else "attempt"
                        raise MalformedFile(
                            f"{layout.ATTEMPTS}: {attack.name}'s {what} in round {record.round} on "
                            f"client {client} is missing, so no figure would be whole; run the "
                            "attack again on what was captured (fedsim attack RUN)"
                        )


def device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is a GPU where there is one.

    Raises:
        BadInput: it is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = torch.device(name)
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.type == "cuda" and (wanted.index or 0) >= here:
        allowed = ", ".join(["auto", "cpu", *(f"cuda:{at}" for at in range(here))])
        raise BadInput(f"device: {name!r} is not here; allowed: {allowed}")
    return wanted
