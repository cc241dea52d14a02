"""The tap: it shows what a Flower server sends and gets, and changes nothing of it.

It works in any Flower project, and needs flwr, numpy and safetensors alone: the distribution
``fedsim-tap`` is this package and the few modules that it needs.
"""

from fedsim.tap.capture import Capture
from fedsim.tap.exchange import Exchange, Hook
from fedsim.tap.grid import TapGrid
from fedsim.tap.proxy import GridProxy
from fedsim.tap.truth import TruthNotes
from fedsim.tap.wrapper import tapped

__all__ = ["Capture", "Exchange", "GridProxy", "Hook", "TapGrid", "TruthNotes", "tapped"]
