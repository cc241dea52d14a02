"""Clients: the only place that holds private text. The lab starts them; nothing below sees them."""

from clients.app import ClientSettings, build_client_app
from clients.data import DataSettings

__all__ = ["ClientSettings", "DataSettings", "build_client_app"]
