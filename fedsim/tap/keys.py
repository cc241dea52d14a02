"""The names under which records travel: Flower's own, those of its legacy API, and fedsim's."""

from typing import Any

from flwr.app import RecordDict

ARRAYS = "arrays"  # the key under which Flower's strategies look for the arrays, both ways
CONFIG = "config"
METRICS = "metrics"
UPDATE = "fedsim.update"
SUM = "fedsim.sum"  # beside an update that is several clients' mean: whose
ROUND = "server-round"  # written by Flower's strategies into the config of each round
EXAMPLES = "num-examples"  # the weight of a reply in Flower's averages
PROXIMAL = "proximal-mu"  # written by FedProx
PARTITION = "partition-id"

FIT_ARRAYS = "fitins.parameters"  # the legacy API's
FIT_CONFIG = "fitins.config"
FIT_REPLY = "fitres.parameters"
FIT_METRICS = "fitres.metrics"
FIT_COUNT = "fitres.num_examples"
LEGACY_EXAMPLES = "num_examples"

SECAGG = "secaggplus_configs"  # the record of a message of Flower's SecAgg+
MASKED = "masked_params"  # in it: a client's arrays beneath their masks

ROUNDS = ("server_round", "current_round", "current-round", "round", "rnd", "global_round")
"""Where projects put the round that Flower does not: into the config of ``on_fit_config_fn``."""


def sent_round(content: RecordDict) -> int | None:
    """Return the round that Flower wrote into a server message, or None where it did not."""
    told = [record[ROUND] for record in content.config_records.values() if ROUND in record]
    return next((number for value in told if (number := _whole(value)) is not None), None)


def told_round(content: RecordDict, group: str) -> int | None:
    """Return the round that a server message says it is of, or None where it does not.

    Args:
        content: of the message.
        group: its group id, where Flower's legacy API says the round.
    """
    if (told := sent_round(content)) is not None:
        return told
    if (told := _whole(group)) is not None:
        return told
    for name in ROUNDS:
        for record in content.config_records.values():
            if (told := _whole(record.get(name))) is not None:
                return told
    return None


def _whole(value: Any) -> int | None:
    """Return ``value`` as a round: a whole number, in digits or not."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 7:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 10**6 and value == int(value) else None


def setting(content: RecordDict, record: str, name: str) -> Any:
    """Return what a message says under ``name`` in one of its configs; None: nothing."""
    found = content.config_records.get(record)
    return None if found is None else found.get(name)


def summed_nodes(content: RecordDict) -> list[int]:
    """Return the nodes that a reply stands for; none where it is one node's own."""
    nodes = setting(content, SUM, "nodes")
    return list(nodes) if isinstance(nodes, list) else []
