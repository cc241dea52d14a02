"""The config: TOML tables, checked whole before anything starts."""

from fedsim.lab.config.schema import (
    QUICK_START,
    AttackSection,
    Config,
    DefenseSection,
    ModelSection,
    PluginSection,
    Section,
    apply,
    assign,
    check,
    checked,
    known_keys,
    load_config,
    parse,
    read_toml,
    tables,
)

__all__ = [
    "QUICK_START",
    "AttackSection",
    "Config",
    "DefenseSection",
    "ModelSection",
    "PluginSection",
    "Section",
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
