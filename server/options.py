"""What a strategy's options may be: Flower checks few, and fails or trains nothing later."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from fedsim.errors import BadInput, shown, unknown

KEY = "federation.strategy_options"


@dataclass(frozen=True)
class Range:
    """Numbers from ``least`` (above it, where ``open``) to below ``end``."""

    least: float
    end: float = inf
    open: bool = False
    whole: bool = False

    def __str__(self) -> str:
        kind = "an integer" if self.whole else "a number"
        below = "" if self.end == inf else f" and < {self.end:g}"
        return f"{kind} {'>' if self.open else '>='} {self.least:g}{below}"

    def holds(self, value: object) -> bool:
        """Return whether ``value`` is such a number."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        enough = value > self.least if self.open else value >= self.least
        return enough and value < self.end and isfinite(value)


RATE, SHARE, COUNT = Range(0, open=True), Range(0, 1), Range(0, whole=True)
ADAPTIVE = {"eta": RATE, "eta_l": RATE, "tau": RATE}
MOMENTS = {**ADAPTIVE, "beta_1": SHARE, "beta_2": SHARE}
OPTIONS: dict[str, dict[str, Range]] = {
    "bulyan": {"num_malicious_nodes": COUNT},
    "fedadagrad": ADAPTIVE,
    "fedadam": MOMENTS,
    "fedavgm": {"server_learning_rate": RATE, "server_momentum": SHARE},
    "fedprox": {"proximal_mu": Range(0)},
    "fedtrimmedavg": {"beta": Range(0, 0.5)},
    "fedyogi": MOMENTS,
    "krum": {"num_malicious_nodes": COUNT},
    "multikrum": {"num_malicious_nodes": COUNT, "num_nodes_to_select": Range(1, whole=True)},
    "qfedavg": {"client_learning_rate": RATE, "q": Range(0)},
}
NEEDED = {"bulyan": (4, 3), "krum": (2, 3), "multikrum": (2, 3)}
"""Of f malicious clients: a f + b in all, of the papers; Flower's Krum takes any number of them."""


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise BadInput when the strategy ``name`` does not take ``options``."""
    known = OPTIONS.get(name, {})
    for key, value in options.items():
        if key not in known:
            raise BadInput(f"{KEY}: {name}: {unknown('option', key, known)}")
        if not known[key].holds(value):
            raise BadInput(f"{KEY}: {name}: {key} must be {known[key]}, got {shown(value)}")


def check_clients(name: str, options: Mapping[str, Any], clients: int) -> None:
    """Raise BadInput when ``clients`` a round are too few for the strategy and its options."""
    malicious = options.get("num_malicious_nodes", 0)
    each, more = NEEDED.get(name, (0, 0))
    needed = each * malicious + more
    if clients < needed and (malicious or name == "bulyan"):  # of none, Krum's is any client's
        raise BadInput(
            f"federation.clients_per_round: {name} with num_malicious_nodes = {malicious} needs at "
            f"least {needed}, got {clients}"
        )
    if (selected := options.get("num_nodes_to_select", 1)) > clients:
        raise BadInput(
            f"{KEY}: {name}: num_nodes_to_select must be at most federation.clients_per_round = "
            f"{clients}, got {selected}"
        )
