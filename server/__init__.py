"""The server: it follows the protocol and looks.

:class:`TapGrid` and :class:`Capture` work in any Flower server app.
"""

from server.app import Progress, ServerSettings, build_server_app
from server.capture import Capture
from server.grids import GridProxy, PartitionedGrid
from server.tap import Exchange, Hook, TapGrid

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
]
