"""What a client can answer that is no reply: each makes a right one a wrong one."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedsim.tap.keys import ARRAYS, EXAMPLES, METRICS, SUM, UPDATE

Wrong = Callable[[RecordDict], object]
"""Makes a right reply a wrong one, in place."""


def array(change: Callable[[np.ndarray], Any]) -> Wrong:
    """The last array, changed."""

    def wrong(reply: RecordDict) -> None:
        arrays = reply.array_records[ARRAYS]
        name = list(arrays)[-1]
        arrays[name] = Array(np.asarray(change(arrays[name].numpy())))

    return wrong


def arrays(change: Callable[[dict[str, Array]], object]) -> Wrong:
    def wrong(reply: RecordDict) -> None:
        changed = dict(reply.array_records[ARRAYS])
        change(changed)
        reply[ARRAYS] = ArrayRecord(changed)

    return wrong


def metrics(**values: Any) -> Wrong:
    """Metrics replaced or added; None: left out."""
    if "num_examples" in values:
        values[EXAMPLES] = values.pop("num_examples")

    def wrong(reply: RecordDict) -> None:
        changed = {**reply.metric_records[METRICS], **values}
        reply[METRICS] = MetricRecord({k: v for k, v in changed.items() if v is not None})

    return wrong


def record(name: str, value: Any) -> Wrong:
    def wrong(reply: RecordDict) -> None:
        if value is None:
            del reply[name]
        else:
            reply[name] = value

    return wrong


def entry(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values.flat[-1] = value
        return values

    return change


def rename(changed: dict[str, Array]) -> None:
    changed["renamed"] = changed.pop(next(iter(changed)))


def garbage(changed: dict[str, Array]) -> None:
    name = next(iter(changed))
    array = changed[name]
    changed[name] = Array(array.dtype, array.shape, array.stype, array.data[:40])


WRONG: dict[str, tuple[Wrong, str]] = {
    "shape": (array(lambda a: a[:-1]), "must have shape"),
    "transposed": (array(lambda a: a[..., None]), "must have shape"),
    "one number for an array": (array(lambda a: np.float32(1)), r"got \(\)"),
    "integers": (array(lambda a: a.astype(np.int64)), "must be like float32 .* got int64"),
    "booleans": (array(lambda a: a > 0), "must be like float32 .* got bool"),
    "complex numbers": (array(lambda a: a.astype(np.complex64)), "got complex64"),
    "text": (array(lambda a: a.astype("U8")), "must be like float32 .* got <U8"),
    "another byte order": (array(lambda a: a.astype(">f4")), "must be like float32 .* got >f4"),
    "long doubles": (array(lambda a: a.astype(np.longdouble)), "like float32 .* got float128"),
    "doubles beyond floats": (array(lambda a: np.full(a.shape, 1e300)), "not finite as float32"),
    "one double beyond floats": (array(lambda a: entry(-4e38)(a.astype(float))), "as float32"),
    "not a number": (array(entry(np.nan)), "is not finite"),
    "infinite": (array(entry(-np.inf)), "is not finite"),
    "no array": (arrays(dict.clear), "lacks the arrays"),
    "an array less": (arrays(dict.popitem), "lacks the arrays"),
    "an array more": (arrays(lambda a: a.update(more=Array(np.ones(2)))), r"adds .* \['more'\]"),
    "an array renamed": (arrays(rename), "lacks the arrays"),
    "bytes that are no array": (arrays(garbage), "EOF"),
    "another kind": (record(UPDATE, ConfigRecord({"kind": "delta"})), "must be gradient, got delt"),
    "an unknown kind": (record(UPDATE, ConfigRecord({"kind": "weights"})), "got 'weights'"),
    "no kind": (record(UPDATE, None), "must be gradient, got none"),
    "a sum": (record(SUM, ConfigRecord({"nodes": [1000, 1001, 1002]})), "says that it is a sum"),
    "arrays twice": (record("more", ArrayRecord({"w": Array(np.ones(2))})), "one ArrayRecord"),
    "no arrays": (record(ARRAYS, None), "one ArrayRecord, got 0"),
    "metrics twice": (record("more", MetricRecord({"x": 1})), "its metrics must be"),
    "no metrics": (record(METRICS, None), "its metrics must be .*, got none"),
    "a metric less": (metrics(train_loss=None), "its metrics must be"),
    "a metric more": (metrics(more=1.0), "its metrics must be"),
    "a metric that is no number": (metrics(train_loss=float("nan")), "'train_loss' must be"),
    "a metric that is a list": (metrics(train_loss=[1.0]), "'train_loss' must be"),
    "a loss below nothing": (metrics(train_loss=-1e-3), "'train_loss' must be 0 or more"),
    "no count": (metrics(num_examples=None), "its metrics must be"),
    "a count of nothing": (metrics(num_examples=0), "num-examples must be .* got 0"),
    "a count below nothing": (metrics(num_examples=-2), "num-examples must be .* got -2"),
    "a count beyond all": (metrics(num_examples=10**7 + 1), "1 to 10,000,000, got 10000001"),
    "a count of 63 bits": (metrics(num_examples=2**63 - 1), "1 to 10,000,000, got 9223372036854"),
    "a metric of 70 bits": (metrics(train_loss=2**70), "'train_loss' must be a finite number"),
    "a metric without end": (metrics(train_loss=10**400), "'train_loss' must be a finite number"),
    "a count that is no number": (metrics(num_examples=float("nan")), "must be .* got nan"),
    "a count without end": (metrics(num_examples=float("inf")), "must be .* got inf"),
    "a count of a half": (metrics(num_examples=1.5), "must be an integer.* got 1.5"),
    "a list of counts": (metrics(num_examples=[2, 2]), r"must be an integer.* got \[2, 2\]"),
}  # fmt: skip


def raising(_: RecordDict) -> None:
    """No reply at all."""
    raise RuntimeError("no reply")
