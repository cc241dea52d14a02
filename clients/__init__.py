"""Clients: the only place that holds private text. The lab starts them; nothing below sees them."""

from clients.app import build_client_app
from clients.data import DataSettings
from clients.holdings import ClientSettings

__all__ = ["ClientSettings", "DataSettings", "build_client_app"]
