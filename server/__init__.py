"""The server: it follows the protocol and looks.

What looks is :mod:`fedsim.tap`, which works in any Flower server app.
"""

from fedsim import tap
from server.app import Progress, ServerSettings, build_server_app
from server.grids import PartitionedGrid

Capture = tap.Capture
Exchange = tap.Exchange
GridProxy = tap.GridProxy
Hook = tap.Hook
TapGrid = tap.TapGrid
tapped = tap.tapped

__all__ = [
    "Capture",
    "Exchange",
    "GridProxy",
    "Hook",
    "PartitionedGrid",
    "Progress",
    "ServerSettings",
    "TapGrid",
    "build_server_app",
    "tapped",
]
