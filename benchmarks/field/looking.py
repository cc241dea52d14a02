"""What fedsim says of a project's captures, held against what Flower's FedAvg was given."""

import contextlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from field.running import Ran

from fedsim.captures import captured_node, find_captures, is_masked
from fedsim.lab.cli import main as fedsim

KEPT = ("exact_match", "exact_match_but_last", "token_accuracy", "bag_f1")


def captured_right(ran: Ran) -> dict[str, Any]:
    """Say what was captured, and whether it is what the witness saw.

    Right means: each round and node once, with the count that its reply stated; of masked captures
    the counts are in a later message, and rounds and nodes alone are compared.
    """
    every = find_captures(ran.captures)
    masked = [where for where in every if is_masked(where)]
    seen = sorted(
        (where.round, str(captured_node(where)), None if masked else _examples(where.directory))
        for where in every
    )
    wanted = sorted(
        (line["round"], node, None if masked else stated)
        for line in ran.witness()
        for node, stated in line["stated"]
    )
    return {
        "captures": len(every),
        "rounds": sorted({where.round for where in every}),
        "clients": len({where.client for where in every}),
        "stated": sorted({stated for _, _, stated in seen if stated is not None}),
        "masked": len(masked),
        "right": seen == wanted and len(wanted) > 0,
    }


def _examples(directory: Path) -> int:
    record = json.loads((directory / "observation.json").read_text(encoding="utf-8"))
    return int(record["num_examples"])


def called(*words: str) -> tuple[int, str, str]:
    """Run a command of fedsim in this process; return its exit code and what it said."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = fedsim(words)
    return code, out.getvalue(), err.getvalue()


def inspected(captures: Path) -> dict[str, Any]:
    """Return what ``fedsim inspect`` finds, and its lines on what shows and what hides."""
    code, said, _ = called("inspect", str(captures))
    _, found, _ = called("inspect", str(captures), "--json")
    told = json.loads(found)
    keys = ("looks", "family", "rank", "width", "filled", "vague", "hidden", "looked", "masked")
    lines = [line.strip() for line in said.splitlines()]
    return {
        "exit_code": code,
        **{key: told[key] for key in keys},
        "says": [line for line in lines if line.startswith(("What", "Model")) or "mask" in line],
    }


def read(ran: Ran, words: Sequence[str]) -> dict[str, Any]:
    """Return what ``fedsim attack`` reads, with truth, controls and verdict."""
    out = ran.folder / "attacked"
    begun = time.process_time()
    code, _, said = called(
        "attack", str(ran.captures), "--attack", "dager", *words, "--truth", str(ran.truth),
        "--out", str(out),
    )  # fmt: skip
    seconds = round(time.process_time() - begun, 1)
    settings = [word for word in words if not word.startswith("model.name=")]
    whole: dict[str, Any] = {"exit_code": code, "settings": settings, "cpu_seconds": seconds}
    if not (out / "summary.json").exists():
        lines = said.replace(str(ran.captures), "captures").strip().splitlines()
        return {**whole, "said": lines[-1:]}
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    rounds = summary["attacks"]
    return {
        **whole,
        "samples": sum(one["samples"] for one in rounds),
        "exact": sum(_count(one, "exact_match") for one in rounds),
        "exact_but_last": sum(_count(one, "exact_match_but_last") for one in rounds),
        "leakage": {k: v for k, v in summary["leakage"]["dager"].items() if k in KEPT},
        "verdict": summary["verdicts"]["dager"]["verdict"],
        "reason": summary["verdicts"]["dager"].get("reason", ""),
        "updates": [_update(one) for one in rounds],
        "notes": summary["notes"],
    }


def _count(one: dict[str, Any], metric: str) -> int:
    found = float(one["metrics"].get(metric, 0.0)) * int(one["samples"])
    return round(found)


def _update(one: dict[str, Any]) -> dict[str, Any]:
    controls = {
        name: values.get("exact_match_but_last", values.get("exact_match"))
        for name, values in one["controls"].items()
        if values
    }
    return {
        "round": one["round"],
        "client": one["client"],
        "samples": one["samples"],
        "exact": _count(one, "exact_match"),
        "verdict": one["verdict"],
        "controls": controls,
        "seconds": one["seconds"],
    }
