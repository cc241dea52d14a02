"""What the DP defenses claim, measured: accountants, noise on the wire, canaries, cost, recovery.

Each cell is written when it is done, so a run that was stopped goes on. Needs the real data beside
the checkout for the recovery cells. Writes results/dp_claims.json.

    python benchmarks/run.py defenses/dp_claims [--only WORD ...]
"""

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from common.corpora import some
from common.places import DATA, RESULTS

from clients.corpus import clinic
from defenses import DPSGD, Defense
from defenses.base import Here, Memory
from defenses.dp.accounting import prv, rdp
from fedsim.local import LocalTraining
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.training import Examples, TrainingSettings

OUT = RESULTS / "dp_claims.json"
HISTORIES: list[tuple[Any, float]] = [
    (((1.0, 1.0, 1),), 1e-5), (((0.5, 1.0, 3),), 1e-5), (((2.0, 1.0, 1),), 1e-6),
    (((1.0, 0.01, 100),), 1e-5), (((4.0, 0.02, 1000),), 1e-6), (((0.7, 0.1, 20),), 1e-5),
    (((1.0, 0.3, 50),), 1e-4), (((0.5, 0.2, 3),), 1e-3),
    (((1.0, 0.1, 10), (1.2, 0.05, 5)), 1e-5), (((2.0, 0.25, 7), (2.0, 0.5, 4)), 1e-5),
]  # fmt: skip


def accountants() -> Any:
    """Our epsilon over Google's.

    Of a client that is not in every round, the rounds that it is in are its steps: those of the
    other rounds are left out (``participation``), and the choice of clients amplifies nothing.
    """
    import dp_accounting
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    logging.getLogger("absl").setLevel(logging.ERROR)
    rows = []
    for history, delta, how in [*((*one, "every round") for one in HISTORIES), *partial()]:
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
            "history": history, "participation": how, "delta": delta, "prv": prv(history, delta),
            "pld": pld.get_epsilon(delta), "rdp": rdp(history, delta),
            "rdp_google": renyi.get_epsilon(delta),
        })  # fmt: skip
    worst = max(
        max(abs(r["prv"] / r["pld"] - 1), abs(r["rdp"] / r["rdp_google"] - 1)) for r in rows
    )
    return {"worst_relative_gap": worst, "rows": rows}


def partial() -> list[tuple[Any, float, str]]:
    """Return what dp-sgd itself notes of a client in some of 20 rounds, by a coin of its own."""
    found = []
    for share, z, held, expected in ((0.5, 1.0, 40, 8), (0.25, 0.8, 200, 10), (0.1, 2.0, 30, 6)):
        coins = torch.rand(20, generator=torch.Generator().manual_seed(held)) < share
        memory, defense = Memory(), DPSGD(noise_multiplier=z)
        for _ in range(int(coins.sum())):
            memory = defense.begin(at(held, expected, memory)).keep()
        history = tuple((z, q, n) for z, q, n in memory.values["history"])
        found.append((history, 1e-5, f"{int(coins.sum())} of 20 rounds, a coin of {share:g} each"))
    return found


def at(held: int, expected: int, memory: Memory | None = None) -> Here:
    """Return a round of a client that holds ``held`` examples."""
    return Here(round=1, held=held, expected=expected, training=TrainingSettings(),
                memory=memory or Memory(), generator=torch.Generator().manual_seed(1))  # fmt: skip


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
        work = defense.begin(at(count, count))
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


COSTS = (("classification", 4), ("classification", 16), ("causal-lm", 8))


def ways(task: str, batch: int) -> dict[str, Callable[[], Any]]:
    model = load_adapter(ModelSpec(name="builtin:gpt2-tiny", weights="random", task=task))  # type: ignore[arg-type]
    return {"plain": client(model, None, batch),
            "dp-sgd": client(model, DPSGD(noise_multiplier=1.0), batch)}  # fmt: skip


def cost() -> Any:
    """A client's round with DP-SGD (audit and all) over a plain one, tiny GPT-2, in turns.

    Processor time, since the machine is shared. The memory is what rounds take at their height
    beyond the model and all that is there before them.
    """
    rows = {}
    for task, batch in COSTS:
        both = ways(task, batch)
        times: dict[str, list[float]] = {name: [] for name in both}
        for _ in range(32):
            for name, way in both.items():
                started = time.process_time()
                way()
                times[name].append(time.process_time() - started)
        middle = {name: statistics.median(some[2:]) for name, some in times.items()}
        rows[f"{task}, batch {batch}"] = {
            "ratio": middle["dp-sgd"] / middle["plain"], "plain_cpu_seconds": middle["plain"],
            "more_memory_mb": {name: peak(task, str(batch), name) for name in both},
        }  # fmt: skip
    return rows


MEMORY = """
import runpy, sys, torch, defenses.dp.per_example
torch.set_num_threads(1)
def megabytes(field):
    return next(int(one.split()[1]) / 1e3 for one in open("/proc/self/status") if field in one)
script, task, size, way = sys.argv[1:]
run = runpy.run_path(script)["ways"](task, int(size))[way]
open("/proc/self/clear_refs", "w").write("5")  # forgets the height so far
before = megabytes("VmRSS")
for _ in range(3): run()
print(megabytes("VmHWM") - before)
"""


def peak(*words: str) -> float:
    """Return by how many MB a fresh process grows in three rounds of one way (Linux)."""
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, __file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def fedsim(*words: str) -> Any:
    command = [sys.executable, "-W", "ignore", "-m", "fedsim.lab.cli", *words, "--json"]
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run([*command, "--out", f"{work}/run"], capture_output=True, text=True,
                              check=False)  # fmt: skip
    if done.returncode not in (0, 1, 3):
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


LEVEL = 0.05  # the chance that any of the audits' bounds is above the true epsilon
AUDITS = (0.5, 1.0, 2.0)


def canaries(z: float) -> Callable[[], Any]:
    """The audit of two clients, ten rounds, every example in every step.

    The audits share the level; each audit's two bounds share its part. mu's standard error is
    about 2 / sqrt(canaries x rounds), 0.02.
    """

    def run() -> Any:
        found = fedsim(
            "audit-dp", f'defense={{name="dp-sgd", noise_multiplier={z}}}', "training.batch_size=0",
            "federation.clients=2", "federation.clients_per_round=2", "federation.rounds=10",
            "data.max_length=12", "data.evaluate=8", "--canaries", "1000",
            "--level", f"{LEVEL / len(AUDITS):.4g}",
        )  # fmt: skip
        return found | {"mu_hat_times_z": found["mu"]["mean"] * z, "rounds": 10}

    return run


def recovery(z: float) -> Callable[[], Any]:
    """DAGER on SST-2 under DP-SGD: what was read, and the bound."""

    def run() -> Any:
        found = fedsim(
            "run", *some("sst2"), "data.evaluate=16", "data.max_length=24",
            f'defense={{name="dp-sgd", noise_multiplier={z}, delta=1e-5}}', "federation.clients=16",
            "federation.clients_per_round=4", "federation.rounds=2", "training.batch_size=4",
        )  # fmt: skip
        bounds = [one["bound"]["exact_match"] for one in found["attacks"] if "bound" in one]
        read = found["leakage"]["dager"]["exact_match"]
        return {
            "exact_match": read,
            "bag_f1": found["leakage"]["dager"]["bag_f1"],
            "verdict": found["verdicts"]["dager"],
            "bounds": bounds,
            "below the bound": read["mean"] <= statistics.mean(bounds),
            "guarantee": found["guarantee"],
        }

    return run


CELLS: dict[str, Callable[[], Any]] = {
    "accountants": accountants,
    "noise on the wire over z C / B": noise,
    "cost of a client's round": cost,
    **{f"canaries, z = {z}": canaries(z) for z in AUDITS},
    **{f"dager, gpt2-tiny random, sst2, z = {z}": recovery(z) for z in (1e-5, 1e-3, 0.1, 0.5, 1.0)},
}


def main() -> None:
    """Measure every cell that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="*", default=[], help="cells whose name has all these words"
    )
    only = parser.parse_args().only
    torch.set_num_threads(1)
    record: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {
        "claim": "the DP defenses do what they say",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work, no GPU",
        "dtype": "float32", "seed": 1, "weights": "random", "cells": {},
    }  # fmt: skip
    for name, cell in CELLS.items():
        if (
            name in record["cells"]
            or not all(word in name for word in only)
            or (name.startswith("dager") and not DATA.is_dir())
        ):
            continue
        record["cells"][name] = cell()
        OUT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(name, json.dumps(record["cells"][name])[:300], flush=True)


if __name__ == "__main__":
    main()
