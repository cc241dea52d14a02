"""Whatever a project sends: its strategy gets what it would have got, and what is readable is."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedsim import limits
from fedsim.captures import find_captures, read_capture, read_notes
from fedsim.tap.keys import SUM
from server import Capture, Exchange
from tests.server.layouts import ODD_ARRAYS, bfloat16, raw
from tests.server.soaked import project

START = np.array([[1.5, -2.0], [0.25, 8.0]], np.float32)
END = START + np.float32(0.5)
COUNT = MetricRecord({"num-examples": 3})


def arrays(**values: Any) -> ArrayRecord:
    return ArrayRecord({k: v if isinstance(v, Array) else Array(v) for k, v in values.items()})


def capture(root: Path, sent: RecordDict, received: RecordDict, **changes: Any) -> Capture:
    hook = Capture(root)
    told: dict[str, Any] = {"round": 1, "node_id": 7, "client": None} | changes
    for _ in range(2):
        hook([Exchange(sent=sent, received=received, **told)])
    return hook


def reasons(root: Path) -> list[str]:
    return [note.reason for note in read_notes(root)]


def moved(root: Path) -> dict[str, Any]:
    """What the capture of round 1, client 0 says that the weights moved by."""
    (where,) = find_captures(root)
    assert (where.round, where.client) == (1, 0)
    return {name: tensor.numpy() for name, tensor in read_capture(where).update.tensors.items()}


SENT = RecordDict({"arrays": arrays(w=START), "config": ConfigRecord({"lr": 0.5})})
NEW: dict[str, Any] = {"arrays": arrays(w=END), "m": COUNT}


@pytest.mark.parametrize(
    ("sent", "received", "note"),
    [
        (SENT, NEW, None),
        ({**SENT, "control": arrays(w=START * 9)}, NEW, "sent 'arrays' is kept"),
        ({"control": arrays(w=START * 9), **SENT}, NEW, "sent 'arrays' is kept"),
        (SENT, {"c": arrays(w=START), **NEW}, "answered 'arrays' is kept as weights, not 'c'"),
        (SENT, {"c": arrays(w=START), "new_weights": arrays(w=END), "m": COUNT}, "'new_weights'"),
        (SENT, {"a": arrays(w=START[0]), "b": arrays(w=END), "m": COUNT}, "'b' is kept"),
        (SENT, {"a": arrays(m=START), "b": arrays(w=END), "m": COUNT}, "'b' is kept"),
        (SENT, {"arrays": arrays(w=END, head=END), "m": COUNT}, "never sent: 'head'"),
        ({"arrays": arrays(w=START, head=START)}, NEW, "lacks arrays that were sent: 'head'"),
        ({"arrays": arrays(w=START, n=np.array(3))}, {"arrays": arrays(w=END, n=np.array(4)),
                                                      "m": COUNT}, None),
    ],
)  # fmt: skip
def test_the_weights_are_read_and_the_rest_is_noted_once(
    tmp_path: Path, sent: dict[str, Any], received: dict[str, Any], note: str | None
) -> None:
    capture(tmp_path, RecordDict(dict(sent)), RecordDict(dict(received)))
    assert {k: v.tolist() for k, v in moved(tmp_path).items()} == {"w": [[0.5, 0.5], [0.5, 0.5]]}
    told = reasons(tmp_path)
    assert len(told) == (note is not None) and (note or "") in "".join(told)
    if note is not None:  # the exchange was shown twice
        assert len((tmp_path / "notes.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("sent", "received", "note"),
    [
        ({"config": ConfigRecord({})}, NEW, "no arrays were sent"),
        (SENT, {"m": COUNT}, "the reply holds no arrays"),
        (SENT, {"arrays": arrays(w=END[0]), "m": COUNT}, "other shapes than those sent: 'w'"),
        (SENT, {"arrays": arrays(**{"0": END}), "m": COUNT}, "never sent: '0'"),
        (SENT, {"arrays": arrays(w=END.astype(np.int8)), "m": COUNT}, "are whole numbers"),
        (SENT, {"arrays": arrays(w=raw(Array(END), stype="pickle")), "m": COUNT}, "as 'pickle'"),
        (SENT, {"arrays": arrays(w=raw(Array(END), data=b"\x93NUMPY?")), "m": COUNT}, "is broken"),
        (SENT, {"arrays": arrays(w=END.astype(np.complex128)), "m": COUNT}, "type complex128"),
        (SENT, {"arrays": arrays(w=END.astype("U4")), "m": COUNT}, "type <U4"),
    ],
)
def test_what_cannot_be_read_is_noted_with_its_reason(
    tmp_path: Path, sent: dict[str, Any], received: dict[str, Any], note: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with caplog.at_level(logging.WARNING, "fedsim.tap"):
        capture(tmp_path, RecordDict(dict(sent)), RecordDict(dict(received)))
    assert note in " ".join(reasons(tmp_path))
    assert not list(tmp_path.glob("round=*"))
    assert sum(note in record.getMessage() for record in caplog.records) == 1
    row = json.loads((tmp_path / "notes.jsonl").read_text().splitlines()[0])
    assert (row["round"], row["client"]) == (1, 0)


@pytest.mark.parametrize("name", sorted(ODD_ARRAYS))
@pytest.mark.parametrize("where", ["sent", "received"])
def test_no_layout_of_arrays_raises_and_what_is_captured_can_be_read(
    tmp_path: Path, name: str, where: str
) -> None:
    usual = {"h.0.w": Array(np.ones((4, 3), np.float32)), "h.0.b": Array(np.ones(3, np.float32)),
             "head": Array(np.ones((), np.float32))}  # fmt: skip
    odd = dict(usual)
    ODD_ARRAYS[name](odd)
    ours, theirs = (odd, usual) if where == "sent" else (usual, odd)
    sent = RecordDict({"arrays": ArrayRecord(ours)})
    received = RecordDict({"arrays": ArrayRecord(theirs), "m": COUNT})
    Capture(tmp_path).write([Exchange(round=1, node_id=7, client=None, sent=sent,
                                      received=received)])  # fmt: skip
    for path in find_captures(tmp_path) if list(tmp_path.glob("round=*")) else []:
        assert read_capture(path).update.num_examples == 3
    assert "it could not be captured" not in " ".join(reasons(tmp_path))


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(4, 4), (4.0, 4), (0, 0), (-3, None), (float("nan"), None), (float("inf"), None),
     (1.5, None), ([2, 2], None), (2**40, None), (None, None)],
)  # fmt: skip
def test_counts_are_what_was_stated_or_nothing(
    tmp_path: Path, count: Any, wanted: int | None
) -> None:
    metrics = MetricRecord({} if count is None else {"num-examples": count})
    capture(tmp_path, SENT, RecordDict({"arrays": arrays(w=END), "m": metrics}))
    (where,) = find_captures(tmp_path)
    assert read_capture(where).update.num_examples == (wanted or 0)
    assert len(reasons(tmp_path)) == (wanted is None)


def test_a_sum_states_the_examples_of_all_its_clients(tmp_path: Path) -> None:
    nodes, most = [7, 8, 9], limits.EXAMPLES
    answer: dict[str, Any] = {"arrays": arrays(w=END), SUM: ConfigRecord({"nodes": nodes})}
    for count, wanted in ((2 * most, 2 * most), (4 * most, 0)):
        root = tmp_path / str(count)
        stated = RecordDict(answer | {"m": MetricRecord({"num-examples": count})})
        capture(root, SENT, stated, client=0, cohort=tuple(range(len(nodes))))
        (where,) = find_captures(root)
        assert read_capture(where).update.num_examples == wanted


LEGACY = RecordDict({"fitins.parameters": arrays(**{"0": raw(Array(START), dtype="", shape=())}),
                     "fitins.config": ConfigRecord({"lr": 0.5})})  # fmt: skip


def test_the_legacy_api_s_records_are_read(tmp_path: Path) -> None:
    received: dict[str, Any] = {
        "fitres.parameters": arrays(**{"0": raw(Array(END), dtype="", shape=())}),
        "fitres.num_examples": MetricRecord({"num_examples": 12}),
        "fitres.metrics": ConfigRecord({"loss": 0.25, "name": "Ada"}),
    }
    capture(tmp_path, LEGACY, RecordDict(dict(received)))
    (where,) = find_captures(tmp_path)
    read = read_capture(where)
    assert (read.update.num_examples, dict(read.update.metrics)) == (12, {"loss": 0.25})
    assert dict(read.broadcast.config) == {"lr": 0.5} and (moved(tmp_path)["0"] == 0.5).all()
    assert reasons(tmp_path) == []


BITS = (END.view(np.uint32) >> 16).astype(np.uint16)  # END is exact in bfloat16


@pytest.mark.parametrize(
    "array",
    [
        bfloat16(END),  # as ml_dtypes has numpy save it
        raw(bfloat16(END), dtype="", shape=()),  # the same by the legacy API
        raw(Array(BITS), dtype="bfloat16"),  # torch's view(int16), said to be what it is
        raw(Array(BITS.view(np.int16)), dtype="torch.bfloat16"),
        Array("bfloat16", (2, 2), "torch.tensor", BITS.tobytes()),  # the bytes as they are
    ],
)
def test_bfloat16_is_read_exactly(tmp_path: Path, array: Array) -> None:
    capture(tmp_path, SENT, RecordDict({"arrays": arrays(w=array), "m": COUNT}))
    assert (moved(tmp_path)["w"] == 0.5).all()
    record = json.loads((tmp_path / "round=1/client=0/observation.json").read_text())
    assert record["wire"] == {"sent": ["float32"], "received": ["bfloat16"]}
    assert reasons(tmp_path) == []


def test_a_setting_that_no_reader_takes_is_left_out(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "local_epochs": -1, "lr": float("nan"), "text": "\ud800", "long": "x" * 70_000,
        "large": 2**62, "ok": 3,
    }  # fmt: skip
    sent = RecordDict({"arrays": arrays(w=START), "config": ConfigRecord(config)})
    capture(tmp_path, sent, RecordDict(dict(NEW)))
    (where,) = find_captures(tmp_path)
    assert read_capture(where).broadcast.config == {"ok": 3, "large": 2**62}
    assert len(reasons(tmp_path)) == 4


def test_masked_updates_are_captured_as_what_they_are(tmp_path: Path) -> None:
    from flwr.common.secure_aggregation import secaggplus_constants as flower

    from fedsim.tap.keys import MASKED, SECAGG

    assert (SECAGG, MASKED) == (flower.RECORD_KEY_CONFIGS, flower.Key.MASKED_PARAMETERS)
    masks = [np.array([7]), np.array([[1, 2], [3, 2**32 - 1]])]
    stage = ConfigRecord({"stage": "2", "ctxts": [b"x"]})
    received: dict[str, Any] = {
        "fitres.parameters": ArrayRecord(),
        "fitres.num_examples": MetricRecord({"num_examples": 12}),
        SECAGG: ConfigRecord({MASKED: [Array(mask).data for mask in masks]}),
    }
    capture(tmp_path, RecordDict({**LEGACY, SECAGG: stage}), RecordDict(dict(received)))
    (where,) = find_captures(tmp_path)
    record = json.loads((where.directory / "observation.json").read_text())
    assert (record["kind"], record["num_examples"], record["config"]) == ("masked", 12, {"lr": 0.5})
    assert len(reasons(tmp_path)) == 1 and "masked by secure aggregation" in reasons(tmp_path)[0]
    with pytest.raises(ValueError, match="is masked by secure aggregation"):
        read_capture(where)


def test_a_step_of_secure_aggregation_without_training_is_none(tmp_path: Path) -> None:
    step = RecordDict({"secaggplus_configs": ConfigRecord({"stage": "0"})})
    capture(tmp_path, step, RecordDict({"secaggplus_configs": ConfigRecord({"pk1": b"k"})}))
    assert list(tmp_path.iterdir()) == []


def unwritable(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


def panicking(*args: object, **kwargs: object) -> None:
    raise BaseException("a panic of Rust")  # as pyo3 raises them


@pytest.mark.parametrize("broken", [unwritable, panicking])
def test_a_full_disk_ends_no_training_but_an_experiment_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., None]
) -> None:
    monkeypatch.setattr("fedsim.evidence.save_file", broken)
    hook = capture(tmp_path, SENT, RecordDict(dict(NEW)))
    (reason,) = reasons(tmp_path)
    assert "No space left" in reason or "a panic of Rust" in reason
    with pytest.raises(BaseException, match=r"No space left|a panic of Rust"):
        hook.write([Exchange(round=1, node_id=7, client=None, sent=SENT,
                             received=RecordDict(dict(NEW)))])  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_random_layouts_are_as_without_a_tap(tmp_path: Path, seed: int) -> None:
    wrong, _ = project(seed, tmp_path)
    assert wrong == []
