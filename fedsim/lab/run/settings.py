"""What each side is started with, from the config: a key goes into the field of its name."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from attacks import attack_table
from clients import ClientSettings, DataSettings
from defenses import Defense
from fedsim.lab.config import Config, Section
from fedsim.lab.engines import Resources
from fedsim.lab.store.changes import identity
from fedsim.models import BUILTIN, ModelAdapter, ModelSpec
from fedsim.rng import Secret, derive
from fedsim.threads import best_threads
from fedsim.training import TrainingSettings
from fedsim.types import Parameters
from fedsim.vault.keys import own_key
from server import ServerSettings

S = TypeVar("S")
RESERVE = 900  # texts, where an attack wants some and the config does not say how many


def settings_of(kind: type[S], sections: Sequence[Section], **more: Any) -> S:
    """Return settings of ``kind``: what ``sections`` say under its fields' names, and ``more``."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for section in sections
        for name, value in section
        if name in names
    }
    made: S = kind(**{**given, **more})
    return made


def data_settings(config: Config) -> DataSettings:
    """Return what clients need of the [data] table."""
    reserve = config.data.reserve
    if not reserve and any(asks_about_candidates(section.name) for section in config.attack):
        reserve = RESERVE
    return settings_of(DataSettings, [config.data], reserve=reserve)


def asks_about_candidates(attack: str) -> bool:
    """Return whether an attack is one that is asked about candidates."""
    kind = attack_table().get(attack)
    return kind is not None and "candidates" in kind.needs


def model_spec(config: Config, labels: int, response: str = "") -> ModelSpec:
    """Return the public facts about the model; ``response`` is what the loss is of what follows."""
    section = config.model
    return settings_of(
        ModelSpec,
        [section],
        weights="random" if section.name.startswith(BUILTIN) else section.weights,
        seed=derive(config.seed, "model"),  # public: the run's own seed would tell every stream
        num_labels=labels,
        response=response,
    )


def training_settings(config: Config) -> TrainingSettings:
    """Return what the server tells its clients, before the defenses have their say."""
    return settings_of(TrainingSettings, [config.training])


def resources(config: Config) -> Resources:
    """Return what one client takes on an engine that shares them out."""
    federation = config.federation
    return Resources(
        cpus=federation.cpus_per_client,
        gpus=federation.gpus_per_client,
        address=federation.ray_address,
    )


def server_settings(
    config: Config, training: TrainingSettings, defenses: Sequence[Defense]
) -> ServerSettings:
    """Return the server's side of it; the batch size is the clients' own affair."""
    noised = [options for defense in defenses if (options := defense.central()) is not None]
    return settings_of(
        ServerSettings,
        [config.federation, config.training],
        seed=config.seed,
        config=training.as_config(),
        secure_sum=any(defense.sums for defense in defenses),
        central=noised[0] if noised else None,
    )


def client_settings(
    config: Config,
    adapter: ModelAdapter,
    defenses: Sequence[Defense],
    vault: Path,
    parameters: Parameters,
    secret: Secret | None,
) -> ClientSettings:
    """Return the clients' side of it.

    Args:
        config: the run's.
        adapter: its model, on its device.
        defenses: its defenses, settled.
        vault: where the clients write what they trained on.
        parameters: the model's; their size tells how many threads are worth it.
        secret: what they draw from, in place of the seed: bound to what is run, so that two runs
            that are given one share no noise, unless they are the same.
    """
    return settings_of(
        ClientSettings,
        [config.data, config.federation, config.training],
        model=adapter.spec,
        data=data_settings(config),
        seed=config.seed,
        vault=vault.absolute(),
        seal=own_key().seal,
        secret=None if secret is None else secret.bound("run", identity(config), repr(defenses)),
        defenses=tuple(defenses),
        threads=best_threads(parameters),
        device=str(adapter.device),
    )
