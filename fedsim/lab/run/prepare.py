"""From a config to an experiment: every check against the world, before anything long starts."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from clients import DataSettings
from clients.data import Corpus
from clients.holdings import (
    SEEDS,
    Held,
    cached_adapter,
    cached_corpus,
    cached_shards,
    check_examples,
    encode,
)
from defenses import Defense, defense_table
from defenses.base import Private, Setting
from fedsim.errors import BadInput
from fedsim.lab.config import Config
from fedsim.lab.run.attacking import PlannedAttack, plan
from fedsim.lab.run.controls import OWN_TEXTS, own_sequences
from fedsim.lab.run.trackers import check_trackers
from fedsim.models import BUILTIN, ModelAdapter, ModelSpec
from fedsim.plugins import make
from fedsim.rng import derive
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Tokens
from server import ServerSettings
from server.secagg import LINEAR
from server.strategies import make_strategy

POOL = 256  # held-out sequences kept for the no-gradient control


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A config that was checked against the world: model, data and plugins are there and fit."""

    config: Config
    adapter: ModelAdapter
    corpus: Corpus
    planned: Sequence[PlannedAttack]
    defenses: Sequence[Defense]
    training: TrainingSettings
    held_out: Examples
    pool: tuple[Tokens, ...]

    @property
    def data(self) -> DataSettings:
        """The [data] table, as clients take it."""
        return data_settings(self.config)


def data_settings(config: Config) -> DataSettings:
    """Return what clients need of the [data] table."""
    return DataSettings(**config.data.model_dump(exclude={"max_length"}))


def there(name: str) -> str:
    """Return ``name`` as an absolute path where it is one: Ray's workers may be elsewhere."""
    return str(Path(name).absolute()) if name and Path(name).exists() else name


def model_spec(config: Config, labels: int) -> ModelSpec:
    """Return the public facts about the model."""
    section = config.model
    return ModelSpec(
        name=section.name,
        tokenizer=section.tokenizer,
        task=section.task,
        weights="random" if section.name.startswith(BUILTIN) else section.weights,
        seed=derive(config.seed, "model"),  # public: the run's own seed would tell every stream
        num_labels=labels,
        lora_rank=section.lora_rank,
        lora_targets=tuple(section.lora_targets),
        freeze=tuple(section.freeze),
    )


def prepare(config: Config) -> Experiment:
    """Check all that can go wrong before anything long starts.

    Raises:
        BadInput: one line that names the key, what came and what is allowed.
    """
    check_trackers(config.tracker)
    planned = plan(config.attack)
    defenses = [
        make("defense", one.name, defense_table(), one.parameters) for one in config.defense
    ]
    federation = config.federation
    make_strategy(federation.strategy, federation.strategy_options, federation.clients_per_round)
    configured(config, defenses, 2)  # before the data: its errors are the likeliest
    corpus = cached_corpus(data_settings(config), config.seed)
    cached_shards(data_settings(config), config.federation.clients, config.seed)  # each has a row
    labels = len(corpus.label_names)
    if config.model.task == "classification" and labels < 2:
        raise BadInput(
            f"model.task: classification needs labels of at least 2 kinds, {config.data.name!r} "
            f"has {labels}; set data.label_column, or a task that needs none"
        )
    adapter, training = configured(config, defenses, labels or 2)
    adapter = adapter.to(device(config.device))
    if config.data.max_length > adapter.positions:
        raise BadInput(
            f"data.max_length must be at most the model's {adapter.positions} positions, "
            f"got {config.data.max_length}"
        )
    if config.model.task != "classification":  # a paper's labels, where there are any
        planned = [
            replace(one, knowledge=tuple(name for name in one.knowledge if name != "labels"))
            if section.knowledge == "paper"
            else one
            for one, section in zip(planned, config.attack, strict=True)
        ]
    for one in planned:
        one.attack.check(adapter)
        _check_reach(one, config)
        if "labels" in one.knowledge and config.model.task != "classification":
            raise BadInput(
                f"attack.knowledge: only classification has labels, got {config.model.task!r}"
            )
    adapter.trainable()  # builds the model: what cannot be loaded, frozen or adapted is said now
    _check_engine(config)
    held = _held(config, adapter.spec)
    check_examples(held.model, held.data, held.max_length, held.clients, held.seed)
    setting = Setting(
        adapter=adapter,
        training=training,
        batch_size=config.training.batch_size,
        held=held,
        clients_per_round=config.federation.clients_per_round,
        rounds=config.federation.rounds,
        defenses=tuple(defenses),
    )
    for defense in defenses:
        defense.check(setting)
    _check_strategy(config, defenses)
    defenses = [defense.settle(setting) for defense in defenses]
    held_out = held_out_examples(
        adapter.spec, data_settings(config), config.data.max_length, config.seed
    )
    return Experiment(
        config=config,
        adapter=adapter,
        corpus=corpus,
        planned=planned,
        defenses=defenses,
        training=training,
        held_out=held_out,
        pool=held_out.sequences[:POOL] or own_sequences(adapter, [12] * len(OWN_TEXTS)),
    )


def configured(
    config: Config, defenses: Sequence[Defense], labels: int
) -> tuple[ModelAdapter, TrainingSettings]:
    """Return the model and the training settings of the run, as its defenses would have them."""
    spec = model_spec(config, labels)
    training = TrainingSettings(**config.training.model_dump(exclude={"batch_size"}))
    for defense in defenses:
        spec, training = defense.configure(spec, training)
    return cached_adapter(spec), training


def _held(config: Config, spec: ModelSpec) -> Held:
    """Return how many examples each client can train on, as it will count them itself."""
    data, clients = data_settings(config), config.federation.clients
    return Held(spec, data, config.data.max_length, clients, config.seed)


@functools.lru_cache(maxsize=SEEDS)  # cells of a sweep share them
def held_out_examples(spec: ModelSpec, data: DataSettings, max_length: int, seed: int) -> Examples:
    """Return what the utility is measured on, as token ids."""
    rows = cached_corpus(data, seed).held_out
    labels = rows["label"][:] if "label" in rows.column_names else [None] * len(rows)
    return encode(cached_adapter(spec), rows["text"][:], labels, max_length)


def _check_reach(one: PlannedAttack, config: Config) -> None:
    """Raise BadInput when an attack would never be run: silence must not look like safety."""
    limits = {"rounds": config.federation.rounds + 1, "clients": config.federation.clients}
    for name, limit in limits.items():
        beyond = [place for place in getattr(one, name) if place >= limit]
        if beyond:
            raise BadInput(f"attack.{name}: must be below {limit} here, got {beyond[0]}")


def absolute(config: Config) -> Config:
    """Return ``config`` with paths that work from any directory: a run may go on from another."""
    model, data = config.model, config.data
    name = there(data.name) if Path(data.name).is_file() else data.name
    return config.model_copy(
        update={
            "model": model.model_copy(
                update={"name": there(model.name), "tokenizer": there(model.tokenizer)}
            ),
            "data": data.model_copy(update={"name": name, "path": there(data.path)}),
        }
    )


def _check_engine(config: Config) -> None:
    """Raise BadInput when Ray could not start a single client: it would wait for one in vain."""
    wanted = config.federation
    have = {"cpus": os.cpu_count() or 1, "gpus": torch.cuda.device_count()}
    asked = {"cpus": wanted.cpus_per_client, "gpus": wanted.gpus_per_client}
    for kind, count in asked.items():
        if wanted.engine == "ray" and count > have[kind]:
            raise BadInput(
                f"federation.{kind}_per_client must be at most the {have[kind]} there are here, "
                f"got {count:g}"
            )


def _check_strategy(config: Config, defenses: Sequence[Defense]) -> None:
    """Raise BadInput when a strategy wants what the defenses keep from the server."""
    strategy = config.federation.strategy
    if any(one.sums for one in defenses) and strategy not in LINEAR:
        raise BadInput(
            f"federation.strategy: under secure aggregation there is only a sum, so it must be one "
            f"of {', '.join(LINEAR)}, got {strategy!r}"
        )
    if strategy == "qfedavg" and any(isinstance(one, Private) for one in defenses):
        raise BadInput(
            "federation.strategy: qfedavg weighs clients by their training loss, which is not sent "
            "beside a private update; take another"
        )
    if any(one.sums for one in defenses) and any(one.central() for one in defenses):
        raise BadInput("defense: central-dp clips each update, and secagg hides each; take one")


def device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(name)
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= here:
        allowed = ", ".join(["auto", "cpu", *(f"cuda:{at}" for at in range(here))])
        raise BadInput(f"device: {name!r} is not here; allowed: {allowed}")
    return found


def server_settings(experiment: Experiment) -> ServerSettings:
    """Return the server's side of it; the batch size is the clients' own affair."""
    config, training = experiment.config, experiment.training
    federation = config.federation
    noised = [options for one in experiment.defenses if (options := one.central()) is not None]
    return ServerSettings(
        clients=federation.clients,
        clients_per_round=federation.clients_per_round,
        rounds=federation.rounds,
        seed=config.seed,
        strategy=federation.strategy,
        strategy_options=federation.strategy_options,
        on_failure=federation.on_failure,
        learning_rate=training.learning_rate,
        config=training.as_config(),
        secure_sum=any(one.sums for one in experiment.defenses),
        central=noised[0] if noised else None,
    )
