"""What the DP defenses claim, measured: accountants, noise on the wire, canaries, cost, recovery.

Each cell is written when it is done, so a run that was stopped goes on. Needs the real data beside
the checkout for the recovery cells. Writes results/dp_claims.json.

    python benchmarks/dp_claims.py
"""

import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clients.corpus import clinic
from clients.training import LocalTraining
from defenses import DPSGD, Defense
from defenses.accounting import prv, rdp
from defenses.base import Here, Memory
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.training import Examples, TrainingSettings

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data"
OUT = HERE / "results" / "dp_claims.json"
HISTORIES: list[tuple[Any, float]] = [
    (((1.0, 1.0, 1),), 1e-5), (((0.5, 1.0, 3),), 1e-5), (((2.0, 1.0, 1),), 1e-6),
    (((1.0, 0.01, 100),), 1e-5), (((4.0, 0.02, 1000),), 1e-6), (((0.7, 0.1, 20),), 1e-5),
    (((1.0, 0.3, 50),), 1e-4), (((0.5, 0.2, 3),), 1e-3),
    (((1.0, 0.1, 10), (1.2, 0.05, 5)), 1e-5), (((2.0, 0.25, 7), (2.0, 0.5, 4)), 1e-5),
]  # fmt: skip


def accountants() -> Any:
    """Our epsilon over Google's; partial participation is steps of other rounds left out."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    logging.getLogger("absl").setLevel(logging.ERROR)
    rows = []
    for history, delta in HISTORIES:
        event = dp_accounting.ComposedDpEvent([
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z)), n
            )
            for z, q, n in history
        ])  # fmt: skip
        pld, renyi = PLDAccountant(value_discretization_interval=1e-3), RdpAccountant()
        pld.compose(event)
        renyi.compose(event)
        rows.append({
            "history": history, "delta": delta, "prv": prv(history, delta),
            "pld": pld.get_epsilon(delta), "rdp": rdp(history, delta),
            "rdp_google": renyi.get_epsilon(delta),
        })  # fmt: skip
    worst = max(
        max(abs(r["prv"] / r["pld"] - 1), abs(r["rdp"] / r["rdp_google"] - 1)) for r in rows
    )
    return {"worst_relative_gap": worst, "rows": rows}


def client(model: ModelAdapter, defense: Defense | None, count: int) -> Callable[[], Any]:
    """Return a client's FedSGD round of ``count`` examples, all it holds."""
    texts = [text for text, _ in clinic()][:count]
    ids = model.tokenizer(texts)["input_ids"]
    rows = tuple(tuple(range(count)) for _ in (0,))
    examples = Examples(sequences=tuple(tuple(i) for i in ids), labels=(0, 1) * (count // 2),
                        steps=rows)  # fmt: skip
    weights, training = model.initial_parameters(), TrainingSettings()

    def run() -> Any:
        local: Any = LocalTraining(model, training)
        if defense is None:
            return local(weights, examples, torch.Generator().manual_seed(1))
        here = Here(round=1, held=count, expected=count, training=training, memory=Memory(),
                    generator=torch.Generator().manual_seed(1))  # fmt: skip
        work = defense.begin(here)
        sent, _ = work.wrap(local)(weights, examples, torch.Generator().manual_seed(1))
        return work.audit(sent, sent)

    return run


def noise() -> Any:
    """Noise on the wire over z C / B, z = 0.8, C = 0.5, B = 8."""
    rows = {}
    for family in ("gpt2-tiny", "llama-tiny", "bert-tiny"):
        for kind, more in {"full": {}, "lora 4": {"lora_rank": 4}}.items():
            model = load_adapter(ModelSpec(name=f"builtin:{family}", weights="random", **more))  # type: ignore[arg-type]
            found = client(model, DPSGD(noise_multiplier=0.8, clip=0.5), 8)()
            rows[f"{family}, {kind}"] = found["noise_std"] / found["noise_std_wanted"]
    return rows


def cost() -> Any:
    """A client's round with DP-SGD (audit and all) over a plain one, tiny GPT-2, in turns."""
    rows = {}
    for task, batch in (("classification", 4), ("classification", 16), ("causal-lm", 8)):
        model = load_adapter(ModelSpec(name="builtin:gpt2-tiny", weights="random", task=task))  # type: ignore[arg-type]
        ways = {"plain": client(model, None, batch),
                "dp-sgd": client(model, DPSGD(noise_multiplier=1.0), batch)}  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(12):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - started)
        middle = {name: statistics.median(some[2:]) for name, some in times.items()}
        rows[f"{task}, batch {batch}"] = {
            "ratio": middle["dp-sgd"] / middle["plain"], "plain_seconds": middle["plain"]
        }  # fmt: skip
    rows["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return rows


def fedsim(*words: str) -> Any:
    command = [sys.executable, "-W", "ignore", "-m", "fedsim.lab.cli", *words, "--json"]
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run([*command, "--out", f"{work}/run"], capture_output=True, text=True,
                              check=False)  # fmt: skip
    if done.returncode not in (0, 1, 3):
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def canaries(z: float) -> Callable[[], Any]:
    """The audit of two clients, three rounds, every example in every step."""
    return lambda: fedsim(
        "audit-dp", f'defense={{name="dp-sgd", noise_multiplier={z}}}', "training.batch_size=0",
        "federation.clients=2", "federation.clients_per_round=2", "federation.rounds=3",
        "data.max_length=12", "data.evaluate=8", "--canaries", "800",
    )  # fmt: skip


def recovery(z: float) -> Callable[[], Any]:
    """DAGER on SST-2 under DP-SGD: what was read, and the bound."""

    def run() -> Any:
        found = fedsim(
            "run", "data.name=sst2", f"data.path={DATA / 'datasets' / 'sst2'}", "data.evaluate=16",
            f'defense={{name="dp-sgd", noise_multiplier={z}, delta=1e-6}}', "federation.clients=64",
            "federation.clients_per_round=4", "federation.rounds=2",
        )  # fmt: skip
        return {
            "exact_match": found["leakage"]["dager"]["exact_match"],
            "bag_f1": found["leakage"]["dager"]["bag_f1"],
            "verdict": found["verdicts"]["dager"]["verdict"],
            "bounds": [one["bound"]["exact_match"] for one in found["attacks"] if "bound" in one],
            "guarantee": found["guarantee"],
        }

    return run


CELLS: dict[str, Callable[[], Any]] = {
    "accountants": accountants,
    "noise on the wire over z C / B": noise,
    "cost of a client's round": cost,
    **{f"canaries, z = {z}": canaries(z) for z in (0.5, 1.0, 2.0)},
    **{f"dager, gpt2-tiny random, sst2, z = {z}": recovery(z) for z in (1e-5, 1e-3, 0.1, 0.5, 1.0)},
}


def main() -> None:
    """Measure every cell that is not there yet."""
    torch.set_num_threads(1)
    record: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {
        "claim": "the DP defenses do what they say",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work, no GPU",
        "dtype": "float32", "seed": 1, "weights": "random", "cells": {},
    }  # fmt: skip
    for name, cell in CELLS.items():
        if name in record["cells"] or (name.startswith("dager") and not DATA.is_dir()):
            continue
        record["cells"][name] = cell()
        OUT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(name, json.dumps(record["cells"][name])[:300], flush=True)


if __name__ == "__main__":
    main()
