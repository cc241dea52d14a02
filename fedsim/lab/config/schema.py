"""The config: TOML, checked whole before anything starts; every error is one line."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from fedsim.errors import BadInput
from fedsim.models import Task
from fedsim.training import Algorithm, Optimizer, WireDtype

S = TypeVar("S", bound=BaseModel)
QUICK_START = Path(__file__).with_name("quick_start.toml")


class Section(BaseModel):
    """A table of the config: unknown keys are errors, values keep their types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), strict=True, allow_inf_nan=False
    )


class ModelSection(Section):
    """[model]"""

    name: str = Field(min_length=1)
    tokenizer: str = ""
    task: Task = "classification"
    weights: Literal["pretrained", "random"] = "pretrained"
    lora_rank: int = Field(0, ge=0)
    lora_targets: list[str] = []
    freeze: list[str] = []


class DataSection(Section):
    """[data]"""

    name: str = Field(min_length=1)
    path: str = ""
    partition: str = "iid"
    alpha: float = Field(0.5, gt=0)
    partition_by: str = "label"
    text_column: str = ""
    label_column: str = ""
    max_length: int = Field(64, ge=2)
    evaluate: int = Field(128, ge=0)


def _everyone(section: dict[str, Any]) -> int:
    """All clients take part in a round, where the config does not say otherwise."""
    return int(section.get("clients", 1))  # absent: it was wrong, and is complained about


class FederationSection(Section):
    """[federation]"""

    clients: int = Field(4, ge=1)
    clients_per_round: int = Field(default_factory=_everyone, ge=1, validate_default=True)
    rounds: int = Field(1, ge=1)
    strategy: str = "fedavg"
    strategy_options: dict[str, Any] = {}
    engine: Literal["inline", "ray"] = "inline"
    on_failure: Literal["stop", "continue"] = "stop"
    capture: bool = True
    cpus_per_client: float = Field(1.0, gt=0)  # ray only
    gpus_per_client: float = Field(0.0, ge=0)  # ray only

    @model_validator(mode="after")
    def _enough_clients(self) -> "FederationSection":
        if self.clients_per_round > self.clients:
            raise ValueError(
                f"federation.clients_per_round must be at most federation.clients = "
                f"{self.clients}, got {self.clients_per_round}"
            )
        return self


class TrainingSection(Section):
    """[training]"""

    algorithm: Algorithm = "fedsgd"
    batch_size: int = Field(4, ge=0)  # 0: all that a client holds
    local_epochs: int = Field(1, ge=1)
    mini_batch_size: int = Field(4, ge=1)
    learning_rate: float = Field(1e-2, gt=0)
    optimizer: Optimizer = "sgd"
    weight_decay: float = Field(0.0, ge=0)
    dropout: bool = False
    wire_dtype: WireDtype = "float32"


class PluginSection(Section):
    """A table with a name and the plugin's own parameters beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str = Field(min_length=1)

    @property
    def parameters(self) -> dict[str, Any]:
        """The plugin's parameters."""
        return dict(self.model_extra or {})


class DefenseSection(PluginSection):
    """[defense] or [[defense]]"""


class AttackSection(PluginSection):
    """[[attack]]"""

    rounds: list[Annotated[int, Field(ge=1)]] = []  # default: every round
    clients: list[Annotated[int, Field(ge=0)]] = []  # default: every client seen
    knowledge: dict[str, bool] | Literal["paper"] = {}


def tables(value: object) -> list[Any]:
    """A bare name, a table, or a list of either: always a list of tables."""
    rows = value if isinstance(value, list) else [value]
    return [{"name": row} if isinstance(row, str) else row for row in rows]


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class Config(Section):
    """A whole experiment."""

    name: str = Field("experiment", pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(1, ge=0)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    model: ModelSection
    data: DataSection
    federation: FederationSection = FederationSection()
    training: TrainingSection = TrainingSection()
    defense: Annotated[list[DefenseSection], BeforeValidator(tables)] = [
        DefenseSection(name="none")
    ]
    attack: Annotated[list[AttackSection], BeforeValidator(tables)] = []
    tracker: Annotated[list[str], BeforeValidator(_listed)] = []

    def as_toml(self) -> dict[str, Any]:
        """Return the resolved config as TOML values."""
        return self.model_dump()


def load_config(path: Path | None, overrides: Sequence[str]) -> Config:
    """Return the config in ``path`` (None: the built-in quick start) with ``key=value`` overrides.

    Raises:
        BadInput: what is wrong with the file or a value, in one line.
    """
    tree = read_toml(path or QUICK_START)
    for override in overrides:
        apply(tree, override)
    return check(tree)


def check(tree: Mapping[str, Any]) -> Config:
    """Return ``tree`` as a Config.

    Raises:
        BadInput: the first error, in one line.
    """
    return checked(Config, tree)


def checked(kind: type[S], tree: Mapping[str, Any]) -> S:
    """Return ``tree`` as a section of ``kind``; the first error as one line."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise BadInput(_line(error.errors()[0])) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Return the TOML tables in ``path``; one clear line when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"config {str(path)!r} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"config {str(path)!r} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"config {str(path)!r} is not valid TOML: {error}") from error


def parse(override: str) -> tuple[list[str], Any]:
    """Return the key's parts and the value of ``key=value``; a bare word is a string."""
    key, found, text = override.partition("=")
    if not found or not key.strip():
        raise BadInput(f"wanted key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    return key.strip().split("."), value


def apply(tree: dict[str, Any], override: str) -> None:
    """Set what ``override`` (``a.b=value``) says in ``tree``."""
    assign(tree, *parse(override))


def assign(tree: dict[str, Any], parts: Sequence[str], value: object) -> None:
    """Set the key of ``parts`` in ``tree`` to ``value``, making the tables on the way."""
    at = tree
    for depth, part in enumerate(parts[:-1]):
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            whole = ".".join(parts[: depth + 1])
            raise BadInput(f"{'.'.join(parts)}: {whole} is not a table; replace it as a whole")
    at[parts[-1]] = value


def _line(error: ErrorDetails) -> str:
    # Unions put the name of the branch into the place: only keys and indices are of use.
    place = [str(part) for part in error["loc"] if not str(part).startswith(("literal[", "dict["))]
    key = ".".join(place)
    if error["type"] == "extra_forbidden":
        return _unknown(key)
    if error["type"] == "missing":
        return f"{key}: missing; it must be set"
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    wanted = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if error["type"] == "string_pattern_mismatch":
        wanted = f"text that matches {error['ctx']['pattern']}"
    return f"{key or 'config'}: wanted {wanted}, got {error['input']!r}"


def _unknown(key: str) -> str:
    """Say which key is meant: the nearest of all, then those that stand beside it."""
    parent, _, last = key.rpartition(".")
    depth = key.count(".")
    known = known_keys()
    beside = {".".join(one.split(".")[: depth + 1]) for one in known if one.startswith(parent)}
    elsewhere = {one for one in known if one.rpartition(".")[2] == last}
    near = get_close_matches(key, sorted(beside), n=1, cutoff=0.5) or sorted(elsewhere)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown key {key!r}{hint} (known here: {', '.join(sorted(beside))})"


def known_keys() -> list[str]:
    """Return every key of the config, dotted."""
    return sorted(_keys(Config, ""))


def _keys(section: type[BaseModel], prefix: str) -> Iterable[str]:
    for name, field in section.model_fields.items():
        inner: Any = field.annotation
        inner = next(iter(get_args(inner)), inner)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
