"""Messages to Flower records and back.

A fedsim client answers with one ArrayRecord (the update), one MetricRecord and one ConfigRecord
that says what the arrays are. A stock Flower client sends no such ConfigRecord: its arrays are
weights, and its update is what they moved by.
"""

import math
from collections.abc import Mapping, Sequence
from typing import cast, get_args

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedsim.errors import MalformedMessage
from fedsim.messages import Broadcast, Update, UpdateKind
from fedsim.tap.arrays import view
from fedsim.tap.keys import ARRAYS, EXAMPLES, METRICS, PARTITION, PROXIMAL, SUM, UPDATE
from fedsim.types import Parameters, Scalar


def to_arrays(parameters: Parameters) -> ArrayRecord:
    """Return ``parameters`` as an ArrayRecord, dtypes kept (numpy, so Flower, has no bfloat16)."""
    return ArrayRecord(
        {
            name: Array(np.asarray(tensor.detach().cpu().numpy(), order="C"))
            for name, tensor in parameters.items()
        }
    )


def to_tensors(arrays: ArrayRecord) -> dict[str, Tensor]:
    """Return the arrays as tensors of their own: changing one changes nothing that travels."""
    return {name: torch.from_numpy(np.array(view(array))) for name, array in arrays.items()}


def train_config(config: Mapping[str, Scalar]) -> ConfigRecord:
    """Return a round's training config as the server sends it."""
    return ConfigRecord(dict(config))


def update_content(update: Update) -> RecordDict:
    """Return what a client answers with."""
    metrics = MetricRecord({EXAMPLES: update.num_examples, **update.metrics})
    kind = ConfigRecord({"kind": update.kind})
    return RecordDict({ARRAYS: to_arrays(update.tensors), METRICS: metrics, UPDATE: kind})


def sum_content(update: Update, nodes: Sequence[int]) -> RecordDict:
    """Return the reply that stands for those of all ``nodes``: their mean."""
    content = update_content(update)
    content[SUM] = ConfigRecord({"nodes": list(nodes)})
    return content


def only_arrays(content: RecordDict, what: str) -> ArrayRecord:
    """Return the one ArrayRecord of a message; ``what`` it is, for the error."""
    records = list(content.array_records.values())
    if len(records) != 1:
        raise MalformedMessage(f"a {what} must hold exactly one ArrayRecord, got {len(records)}")
    return records[0]


def read_broadcast(content: RecordDict, round_: int) -> Broadcast:
    """Return what a server message said; any Flower app's will do."""
    config: dict[str, Scalar] = {}
    for record in content.config_records.values():
        config |= {k: v for k, v in record.items() if isinstance(v, (bool, int, float, str))}
    if PROXIMAL in config:
        config["proximal_mu"] = config[PROXIMAL]
    return Broadcast(
        round=round_, parameters=to_tensors(only_arrays(content, "broadcast")), config=config
    )


def update_kind(content: RecordDict) -> UpdateKind | None:
    """Return what a reply says its arrays are, or None: a stock Flower client's weights."""
    record = content.config_records.get(UPDATE)
    if record is None:
        return None
    kind = record.get("kind")
    if kind not in get_args(UpdateKind):
        raise MalformedMessage(f"update kind must be gradient or delta, got {kind!r}")
    return cast(UpdateKind, kind)


def read_update(content: RecordDict, broadcast: Broadcast) -> Update:
    """Return what a client answered, as it was on the wire.

    Weights become a delta: their difference from the broadcast in float64, rounded to float32.
    """
    tensors = to_tensors(only_arrays(content, "reply"))
    kind = update_kind(content)
    if kind is None:
        tensors = difference(tensors, broadcast.parameters)
    return _update(content, tensors, kind or "delta")


def read_own_update(content: RecordDict) -> Update:
    """Return what a fedsim client answered: it says itself what its arrays are."""
    kind = update_kind(content)
    if kind is None:
        raise MalformedMessage("secure aggregation sums the updates of fedsim's clients alone")
    return _update(content, to_tensors(only_arrays(content, "reply")), kind)


def _update(content: RecordDict, tensors: dict[str, Tensor], kind: UpdateKind) -> Update:
    metrics: dict[str, float] = {}
    for record in content.metric_records.values():
        metrics |= {k: v for k, v in record.items() if isinstance(v, (int, float))}
    examples = metrics.pop(EXAMPLES, 0)
    if not math.isfinite(examples):
        raise MalformedMessage(f"{EXAMPLES} must be a number of examples, got {examples}")
    return Update(tensors=tensors, kind=kind, num_examples=int(examples), metrics=metrics)


def difference(local: Parameters, sent: Parameters) -> dict[str, Tensor]:
    """Return ``local - sent`` for each floating-point tensor; counters and such do not train."""
    missing = sorted(set(local) - set(sent))
    if missing:
        raise MalformedMessage(f"the reply holds arrays that were never sent: {missing[:3]}")
    for name, tensor in local.items():
        if tensor.shape != sent[name].shape:
            wanted, got = tuple(sent[name].shape), tuple(tensor.shape)
            raise MalformedMessage(f"the reply's {name!r} must have shape {wanted}, got {got}")
    return {
        name: (tensor.double() - sent[name].double()).float()
        for name, tensor in local.items()
        if tensor.is_floating_point()
    }


def whoami_content(partition: int) -> RecordDict:
    """Return a client's answer to the harness that asks which partition it holds."""
    return RecordDict({"node": ConfigRecord({PARTITION: partition})})


def read_partition(content: RecordDict) -> int:
    """Return the partition a client named."""
    return int(cast(int, content.config_records["node"][PARTITION]))
