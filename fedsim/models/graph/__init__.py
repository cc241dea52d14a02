"""A model by the graph of its modules: nothing here is of one family."""

from fedsim.models.graph.anatomy import Anatomy, discover, some_tokens
from fedsim.models.graph.opened import Assembly, embedded, find_plan, opened
from fedsim.models.graph.running import near, read_by, stirred
from fedsim.models.graph.trunk import GraphTrunk

__all__ = [
    "Anatomy",
    "Assembly",
    "GraphTrunk",
    "discover",
    "embedded",
    "find_plan",
    "near",
    "opened",
    "read_by",
    "some_tokens",
    "stirred",
]
