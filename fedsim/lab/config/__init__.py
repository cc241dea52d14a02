"""The config: TOML tables, checked whole before anything starts."""

from fedsim.lab.config.checking import check, checked, known_keys
from fedsim.lab.config.fields import Section
from fedsim.lab.config.model import ModelSection
from fedsim.lab.config.overrides import (
    QUICK_START,
    apply,
    assign,
    load_config,
    parse,
    read_toml,
)
from fedsim.lab.config.schema import (
    AttackSection,
    Config,
    DefenseSection,
    EngineName,
    PluginSection,
)
from fedsim.lab.config.standard import tables
from fedsim.lab.config.training import TrainingSection

__all__ = [
    "QUICK_START",
    "AttackSection",
    "Config",
    "DefenseSection",
    "EngineName",
    "ModelSection",
    "PluginSection",
    "Section",
    "TrainingSection",
    "apply",
    "assign",
    "check",
    "checked",
    "known_keys",
    "load_config",
    "parse",
    "read_toml",
    "tables",
]
