"""What every engine is: it runs a server app and its client app to the end."""

from collections.abc import Callable
from dataclasses import dataclass

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one client takes on Ray."""

    cpus: float
    gpus: float
    address: str = ""  # of a Ray that runs already; empty: one of its own


Engine = Callable[[ServerApp, ClientApp, int, Resources], None]
"""``(server, client, clients, resources)``: run both apps, with so many clients."""
