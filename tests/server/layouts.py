"""Messages as projects lay them out, at random: right ones, odd ones, broken ones."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from tests.server.conftest import ToyGrid

NODES = (2**63 + 11, 17, 5, 901)  # Flower's have 64 bits
SHAPES = {"h.0.w": (4, 3), "h.0.b": (3,), "head": (), "empty": (0, 2)}
Arrays = dict[str, Array]


def bfloat16(values: np.ndarray) -> Array:
    """As numpy saves an array of ml_dtypes.bfloat16: two bytes without a meaning."""
    bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return Array("bfloat16", bits.shape, "numpy.ndarray", Array(bits.view("V2")).data)


def values(draw: random.Random, shape: tuple[int, ...]) -> np.ndarray:
    numbers = np.random.default_rng(draw.getrandbits(32)).standard_normal(shape)
    return np.asarray(numbers, np.float32)


def weights(draw: random.Random) -> Arrays:
    return {name: Array(values(draw, shape)) for name, shape in SHAPES.items()}


def changed(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Arrays], None]:
    def odd(arrays: Arrays) -> None:
        if name in arrays:
            made = change(arrays[name].numpy())
            arrays[name] = made if isinstance(made, Array) else Array(np.asarray(made))

    return odd


def raw(array: Array, **parts: Any) -> Array:
    told = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data}
    return Array(**(told | parts))


ODD_ARRAYS: dict[str, Callable[[Arrays], Any]] = {
    "fewer": lambda a: a.pop("head"),
    "none": lambda a: a.clear(),
    "one more": lambda a: a.update(extra=Array(np.ones(2))),
    "renamed": lambda a: a.update({f"model.{k}": a.pop(k) for k in list(a)}),
    "another shape": changed("h.0.w", lambda v: v[:2]),
    "another rank": changed("h.0.w", lambda v: v[None]),
    "not a number": changed("h.0.b", lambda v: v * np.nan),
    "infinite": changed("h.0.b", lambda v: v * np.float32(np.inf)),
    "half": changed("h.0.w", lambda v: v.astype(np.float16)),
    "double": changed("h.0.w", lambda v: v.astype(np.float64)),
    "bfloat16": changed("h.0.w", bfloat16),
    "large end first": changed("h.0.w", lambda v: v.astype(">f4")),
    "columns first": changed("h.0.w", np.asfortranarray),
    "quantised": changed("h.0.w", lambda v: v.astype(np.int8)),
    "complex": changed("h.0.w", lambda v: v.astype(np.complex128)),
    "text": changed("h.0.w", lambda v: v.astype("U8")),
    "records": changed("h.0.w", lambda v: np.zeros(3, [("a", "f4"), ("b", "i8")])),
    "pickled": changed("h.0.w", lambda v: raw(Array(v), stype="torch.save", data=b"\x80\x04N.")),
    "cut": changed("h.0.w", lambda v: raw(Array(v), data=Array(v).data[:-3])),
    "garbage": changed("h.0.w", lambda v: raw(Array(v), data=b"PK\x03\x04garbage")),
    "no bytes": changed("h.0.w", lambda v: raw(Array(v), data=b"")),
    "a wrong type": changed("h.0.w", lambda v: raw(Array(v), dtype="bfloat16")),
    "a surrogate": lambda a: a.update({"\ud800": a["head"]}),
    "metadata": lambda a: a.update({"__metadata__": a["head"]}),
}

ODD_COUNTS: dict[str, Any] = {
    "nan": float("nan"), "negative": -3, "infinite": float("inf"), "half": 1.5, "list": [2, 2],
    "huge": 2**62, "zero": 0, "float": 4.0, "none": None,
}  # fmt: skip

ODD_CONFIGS: list[dict[str, Any]] = [
    {"local_epochs": -1, "lr": float("nan")}, {"server-round": "soon"}, {"server-round": [1]},
    {"server-round": float("nan")}, {"blob": b"\x00" * 9, "names": ["a"]}, {"text": "\ud800"},
    {"local_epochs": "three", "mini_batch_size": 0.5}, {"long": "x" * 100_000},
]  # fmt: skip


def legacy(content: RecordDict, way: str) -> RecordDict:
    """As the legacy API lays it out: arrays without names, types or shapes."""
    made = RecordDict()
    for record in content.array_records.values():
        arrays = enumerate(record.values())
        made[f"{way}.parameters"] = ArrayRecord(
            {str(place): raw(array, dtype="", shape=()) for place, array in arrays}
        )
    for metrics in content.metric_records.values():
        made[f"{way}.num_examples"] = MetricRecord(
            {k.replace("-", "_"): v for k, v in metrics.items()}
        )
    told = {k: v for c in content.config_records.values() for k, v in c.items()}
    made[f"{way}.{'config' if way == 'fitins' else 'metrics'}"] = ConfigRecord(told)
    return made


class Project:
    """One project's messages: some rounds of it, and what each client answers."""

    def __init__(self, seed: int) -> None:
        draw = self.draw = random.Random(seed)
        self.legacy = draw.random() < 0.3
        self.bare = draw.random() < 0.2  # no message says which round it is
        self.start = weights(draw)
        self.sent_odd = draw.choice([*[None] * len(ODD_ARRAYS), *ODD_ARRAYS])  # half of them
        self.records = draw.choice([1, 1, 1, 0, 2])
        self.right: dict[tuple[int, int], int] = {}  # examples, by round and node

    def sent(self, round_: int) -> RecordDict:
        content = RecordDict()
        for number in range(self.records):
            arrays = dict(self.start)
            if self.sent_odd is not None:
                ODD_ARRAYS[self.sent_odd](arrays)
            content["arrays" if number == 0 else "control"] = ArrayRecord(arrays)
        told = {} if self.bare or self.legacy else {"server-round": round_}
        odd = self.draw.choice([{}, {}, *ODD_CONFIGS])
        content["config"] = ConfigRecord(told | {k: v for k, v in odd.items() if k not in told})
        return legacy(content, "fitins") if self.legacy else content

    def messages(self, round_: int, *, shared: bool) -> list[Message]:
        self.start = weights(self.draw)  # what was aggregated
        content, group = self.sent(round_), str(round_) if self.legacy else ""
        nodes = self.draw.sample(NODES, self.draw.randint(1, len(NODES)))
        return [
            Message(content if shared else self.sent(round_), node, "train", group_id=group)
            for node in nodes
        ]

    def reply(self, round_: int, node: int) -> RecordDict | Error | None:
        """What a node answers, right in two of three cases."""
        draw = self.draw
        moved = {
            name: Array(np.asarray(array.numpy() + values(draw, SHAPES[name]) / 8))
            for name, array in self.start.items()
        }
        examples = draw.randint(1, 99)
        content = RecordDict(
            {
                "arrays": ArrayRecord(moved),
                "metrics": MetricRecord({"num-examples": examples, "loss": draw.random()}),
            }
        )
        if draw.random() < 2 / 3:
            if self.records and self.sent_odd is None:
                self.right[round_, node] = examples
        else:
            odd = self._odd(content, moved)
            if odd is not content:
                return odd
        return legacy(content, "fitres") if self.legacy else content

    def _odd(self, content: RecordDict, moved: Arrays) -> RecordDict | Error | None:
        draw = self.draw
        way = draw.choice(["arrays", "arrays", "arrays", "count", "records", "error", "late"])
        if way == "error":
            return Error(2, draw.choice([None, "", "Traceback\nValueError: \x1b[2J boom"]))
        if way == "late":
            return None
        if way == "arrays":
            arrays = dict(moved)
            ODD_ARRAYS[draw.choice(list(ODD_ARRAYS))](arrays)
            content["arrays"] = ArrayRecord(arrays)
        elif way == "count":
            count = ODD_COUNTS[draw.choice(list(ODD_COUNTS))]
            content["metrics"] = MetricRecord({} if count is None else {"num-examples": count})
        else:
            del content[draw.choice(["arrays", "metrics"])]
            content["masks"] = ConfigRecord({"masked": [b"\x00"], "kind": 3})
            content["fedsim.update"] = ConfigRecord({"kind": draw.choice(["weights", "mask"])})
        return content


class Answers(ToyGrid):
    """A grid whose nodes answer what was written down for each round."""

    def __init__(self, replies: dict[tuple[int, int], Any]) -> None:
        self.round = 1
        super().__init__({node: self._of(node, replies) for node in NODES})

    def _of(self, node: int, replies: dict[tuple[int, int], Any]) -> Callable[[Message], Any]:
        return lambda message: replies[self.round, node]
