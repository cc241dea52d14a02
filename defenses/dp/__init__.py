"""Differential privacy: DP-SGD on the client, noise on its update, noise on the server's mean."""

from defenses.dp.central import CentralDP
from defenses.dp.dp_sgd import DPSGD
from defenses.dp.gaussian import Gaussian

__all__ = ["DPSGD", "CentralDP", "Gaussian"]
