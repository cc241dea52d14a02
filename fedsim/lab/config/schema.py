"""The config's keys: what each means, what it may be, and its default.

A key that goes into the settings of one side has its default there, at the field of its name
(:func:`fedsim.lab.config.fields.default_of`); the others have theirs here. ``docs/config.md`` is
made from this file, see :mod:`fedsim.lab.config.reference`.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from clients.data import DataSettings
from clients.holdings import ClientSettings
from fedsim import limits
from fedsim.lab.config.fields import PathText, Section, default_of
from fedsim.lab.config.model import ModelSection
from fedsim.lab.config.standard import expanded, tables
from fedsim.lab.config.training import TrainingSection
from server import ServerSettings
from server.app import OnFailure

EngineName = Literal["inline", "ray"]
PLUGINS = ("attack", "defense")  # the keys that hold tables of plugins


class DataSection(Section):
    """Which text the clients hold, and how it is divided among them."""

    name: PathText = Field(
        min_length=1,
        description="a data set by name (`fedsim list data`), a csv, tsv, json, jsonl, txt (each "
        "also with `.gz`) or parquet file, or a hub id",
    )
    path: PathText = default_of(
        DataSettings, "path", "a folder with the raw files of a named data set; empty: from the hub"
    )
    partition: str = default_of(DataSettings, "partition", "who holds what, by flwr-datasets")
    alpha: float = default_of(
        DataSettings, "alpha", "of `dirichlet`: the smaller, the more the clients differ", gt=0
    )
    partition_by: str = default_of(
        DataSettings, "partition_by", "the column that a partition by column goes by"
    )
    text_column: str = default_of(
        DataSettings,
        "text_column",
        "empty: `text`, `sentence` or `prompt`, or else the only column of strings; none where a "
        "template makes the texts",
    )
    template: PathText = default_of(
        DataSettings,
        "template",
        "what makes a text of several columns: `alpaca`, `chat`, or a text file with columns' "
        "names in braces, `{instruction}`; empty: `chat` for `messages`, `alpaca` for "
        "`instruction` and `output`, else none ([Data](data.md))",
    )
    response_only: bool = Field(
        False,
        description="the loss is of the response alone, which is what follows the last line before "
        "it in the template (`### Response:`), as trl's collator for completions has it",
    )
    label_column: str = default_of(
        DataSettings, "label_column", "empty: `label`, where there is one"
    )
    encoding: str = default_of(
        DataSettings, "encoding", "of a file of text: any that Python knows, `utf-16`, `cp1252`"
    )
    max_length: int = Field(
        64,
        ge=2,
        le=limits.TOKENS,
        description="tokens that a text is cut to, special ones included",
    )
    evaluate: int = default_of(
        DataSettings,
        "evaluate",
        "held-out examples for the utility, at most; 0: none is measured",
        ge=0,
        le=limits.EXAMPLES,
    )
    reserve: int = default_of(
        DataSettings,
        "reserve",
        "texts that no client is given, a third of all at most, for attacks that are asked about "
        "candidates: they are public to it, or the ones that nobody trained on; 0: as many as such "
        "an attack wants (900), where there is one",
        ge=0,
        le=limits.EXAMPLES,
    )


def _everyone(section: dict[str, Any]) -> int:
    """All clients take part in a round, where the config does not say otherwise."""
    return int(section.get("clients", 1))  # absent: it was wrong, and is complained about


class FederationSection(Section):
    """Who takes part, and what the server makes of it."""

    clients: int = Field(4, ge=1, le=limits.CLIENTS, description="how many there are")
    clients_per_round: int = Field(
        default_factory=_everyone,
        ge=1,
        validate_default=True,
        description="how many take part in a round, drawn from the seed",
        json_schema_extra={"default": "all"},
    )
    rounds: int = Field(1, ge=1, le=limits.ROUND, description="how many there are")
    strategy: str = default_of(
        ServerSettings, "strategy", "a Flower strategy, by its class's name in small letters"
    )
    strategy_options: dict[str, Any] = default_of(
        ServerSettings, "strategy_options", "its arguments, numbers by name"
    )
    engine: EngineName = Field(
        "inline", description="`inline`: in this process; `ray`: Flower's simulation"
    )
    on_failure: OnFailure = default_of(
        ServerSettings, "on_failure", "what a client that fails does to the run"
    )
    timeout: float = default_of(
        ClientSettings,
        "timeout",
        "seconds a client may take in a round, once its model and data are loaded; its process is "
        "ended then, and it has failed; 0: as long as it takes",
        ge=0,
        le=limits.SECONDS,
    )
    ray_address: str = Field(
        "",
        description="of a running Ray that the engine `ray` is to use; empty: one of its own, "
        "which listens on 127.0.0.1 alone",
    )
    capture: bool = Field(
        True, description="keep the updates on disk, for `fedsim attack` and for sweeps"
    )
    cpus_per_client: float = Field(1.0, gt=0, description="of the engine `ray`")
    gpus_per_client: float = Field(0.0, ge=0, description="of the engine `ray`")

    @model_validator(mode="after")
    def _enough_clients(self) -> "FederationSection":
        if self.clients_per_round > self.clients:
            raise ValueError(
                f"federation.clients_per_round must be at most federation.clients = "
                f"{self.clients}, got {self.clients_per_round}"
            )
        return self


class PluginSection(Section):
    """A table with a name and the plugin's own parameters beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str = Field(min_length=1, description="its name")

    @property
    def parameters(self) -> dict[str, Any]:
        """The plugin's parameters."""
        return dict(self.model_extra or {})


class DefenseSection(PluginSection):
    """What the clients do against it: a name, a table, or a list of either.

    Its parameters stand beside its name; ``fedsim list defenses`` names them.
    """


class AttackSection(PluginSection):
    """What the server tries: a name, a table, or a list of either.

    ``standard`` is a set: ``dager``, ``bag`` and a short ``lamp``, told of the defense.
    Its parameters stand beside its name; ``fedsim list attacks`` names them.
    """

    rounds: list[Annotated[int, Field(ge=1)]] = Field([], description="which; empty: every one")
    clients: list[Annotated[int, Field(ge=0)]] = Field([], description="whose; empty: everybody's")
    knowledge: dict[str, bool] | Literal["paper"] = Field(
        {},
        description="what it is granted beside the update, e.g. `{labels = true}`; `paper`: what "
        "its paper grants it",
    )
    seconds: float = Field(
        86400.0, gt=0, description="that one attempt may take; then it is ended, and says nothing"
    )
    memory: float = Field(
        0.0,
        ge=0,
        description="GB that its process and those that it starts may hold; 0: nine tenths of what "
        "is free then. Counted on Linux alone, and files in memory only one by one",
    )


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class Config(Section):
    """A whole experiment."""

    name: str = Field(
        "experiment", pattern=r"^[A-Za-z0-9._-]+$", description="the run's; its directory has it"
    )
    seed: int = Field(1, ge=0, description="of everything that is random")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="of clients and attacks; `auto`: a GPU where there is one",
    )
    model: ModelSection
    data: DataSection
    federation: FederationSection = FederationSection()
    training: TrainingSection = TrainingSection()
    defense: Annotated[list[DefenseSection], BeforeValidator(tables)] = [
        DefenseSection(name="none")
    ]
    attack: Annotated[list[AttackSection], BeforeValidator(expanded)] = []
    tracker: Annotated[list[str], BeforeValidator(_listed)] = Field(
        [],
        description="curves in `trackers/` of the run: `tensorboard`, `wandb` (offline), `mlflow` "
        "(local files), or a list; each is an extra, `pip install '.[tensorboard]'`",
    )

    def as_toml(self) -> dict[str, Any]:
        """Return the resolved config as TOML values."""
        return self.model_dump()
