"""Engines: the same two apps, in this process or on Ray."""

from fedsim.lab.config import EngineName
from fedsim.lab.engines.base import Engine, Resources
from fedsim.lab.engines.inline import run_inline
from fedsim.lab.engines.ray import run_ray

ENGINES: dict[EngineName, Engine] = {"inline": run_inline, "ray": run_ray}
"""By the name in the config, ``federation.engine``."""

__all__ = ["ENGINES", "Engine", "Resources"]
