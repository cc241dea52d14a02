"""A model by the graph of its modules: nothing here is of one family."""

from fedsim.models.graph.anatomy import Anatomy, discover, some_tokens
from fedsim.models.graph.entry import GraphEntry
from fedsim.models.graph.running import near, read_by, stirred
from fedsim.models.graph.trunk import GraphTrunk

__all__ = [
    "Anatomy",
    "GraphEntry",
    "GraphTrunk",
    "discover",
    "near",
    "read_by",
    "some_tokens",
    "stirred",
]
