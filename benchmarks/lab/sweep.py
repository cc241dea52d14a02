"""The FedAvg audit and the defense test as one command each, on real sentences.

Measures how long they take, what share of it is neither training, nor evaluation, nor attack (with
its controls and scores), and whether a sweep that was killed half-way (kill -9) and given again
ends in the same table. Needs the real data beside the checkout. Each part can be run alone; what is
in results/sweep.json stays; plots of the reports are kept beside it.

    python benchmarks/run.py lab/sweep [fedavg] [killed] [seeds] [batches] [gpt2] [defenses]
"""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from common.places import DATA, RESULTS, need_data

RESULT = RESULTS / "sweep.json"
FEDSIM = [sys.executable, "-P", "-m", "fedsim.lab.cli"]
SST2 = ["data.name=sst2", f"data.path={DATA / 'datasets' / 'sst2'}"]
ONE_ROUND = ["federation.rounds=1", "training.algorithm=fedavg"]
TINY = [
    *SST2, *ONE_ROUND, "data.max_length=24", "data.evaluate=872", "federation.clients=4",
    "federation.clients_per_round=4",
]  # fmt: skip
FEDAVG = [
    *TINY, "training.batch_size=4", "training.local_epochs=1,5,20",
    "training.learning_rate=1e-3,1e-2,1e-1,5e-1", "training.mini_batch_size=1,4",
]  # fmt: skip
SEEDS = ["seed=1,2", *FEDAVG]
BATCHES = [
    *TINY, "training.learning_rate=0.1", "training.batch_size=4,8,16,32,64",
    "training.mini_batch_size=1,4",
]  # fmt: skip
GPT2 = [
    *SST2, *ONE_ROUND, "model.name=builtin:gpt2", f"model.tokenizer={DATA / 'tokenizers' / 'gpt2'}",
    "data.max_length=24", "data.evaluate=8", "federation.clients=1",
    "federation.clients_per_round=1", "federation.capture=false", "training.batch_size=4",
    "training.mini_batch_size=2",
    "training.local_epochs=1,4", "training.learning_rate=1e-4,1e-2",
]  # fmt: skip
DEFENSES = [
    *SST2, "data.max_length=16", "data.evaluate=200", "federation.clients=2",
    "federation.clients_per_round=2", "federation.rounds=2", "training.batch_size=4",
    "training.learning_rate=0.1", 'attack={name="dager",rounds=[1]}',
    "defense=none,topk,sign,quantize,random-mask,truncated-svd,gaussian,"
    '{name="dp-sgd",noise_multiplier=0.1}',
]  # fmt: skip
PARTS = ["fedavg", "killed", "seeds", "batches", "gpt2", "defenses"]
PICTURES = {
    "fedavg": "heat-dager-mini_batch_size-learning_rate",
    "batches": "heat-dager-mini_batch_size-batch_size",
}
TIMES = ["seconds", "cell_seconds"]  # what may differ between two runs of the same


def start(words: list[str], out: str, log: Path) -> "subprocess.Popen[bytes]":
    """Start the command as a user would."""
    command = [*FEDSIM, "sweep", *words, "--out", out]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def timed(words: list[str], out: str, log: Path) -> tuple[float, float, int]:
    """Run a command to its end; return its seconds by the clock, of the processor, and its code."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    code = start(words, out, log).wait()
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, code


def measure(words: list[str], out: str, log: Path) -> dict[str, Any]:
    """Run one command to its end; return its time, its overhead and what each cell leaked.

    A cell that failed is left out on both sides: when its work ended is not known.
    """
    refused = ["nothing=1"], f"{out}-start", log  # as soon as all is imported
    timed(*refused)  # from a disk that knows the files
    starts = [timed(*refused)]
    seconds, processor, code = timed(words, out, log)
    starts.append(timed(*refused))
    if code not in (0, 3, 4):  # 3: inconclusive, 4: a cell failed; both are results here
        raise SystemExit(f"the command ended with {code}; see {log}")
    sweep = json.loads(Path(out, "sweep.json").read_text())
    done = [cell for cell in sweep["cells"] if cell["status"] == "done"]
    lost = [cell for cell in sweep["cells"] if cell["status"] == "failed"]
    working, inside = (sum(cell[key] for cell in done) for key in ("working", "seconds"))
    failed = sum(cell["seconds"] for cell in lost)
    begin, begin_processor = (fmean(one[place] for one in starts) for place in (0, 1))
    return {
        "command": "fedsim sweep " + " ".join(word.replace(str(DATA), "DATA") for word in words),
        "cells": len(sweep["cells"]),
        "cells_failed": len(lost),
        "seconds": round(seconds, 1),
        "seconds_of_processor": round(processor, 1),
        "seconds_of_work": round(working, 1),
        "seconds_of_failed_cells": round(failed, 1),
        "seconds_to_start": round(begin, 1),
        "seconds_of_processor_to_start": round(begin_processor, 1),
        "overhead": round(1 - working / (seconds - failed), 4),
        "overhead_without_start": round(1 - working / (seconds - failed - begin), 4),
        "overhead_within_cells": round(1 - working / inside, 4),
        "table": by_cell(out, list(sweep["axes"])),
    }


def picture(out: str, log: Path, plot: str, name: str) -> None:
    """Write the sweep's report, and keep one of its plots beside the results."""
    with log.open("ab") as file:
        subprocess.run([*FEDSIM, "report", out], stdout=file, stderr=file, check=True)
    shutil.copy(Path(out, "report", f"{plot}.svg"), RESULT.with_name(f"{name}.svg"))


def by_cell(out: str, keys: list[str]) -> list[dict[str, Any]]:
    """Return the swept keys and the main figures of each cell."""
    frame = pd.read_parquet(f"{out}/table.parquet")
    rows = []
    for name, cell in frame.groupby("cell", sort=False):
        row = {key: cell[key].iloc[0] for key in keys}
        if cell["error"].notna().any():
            row["error"] = cell["error"].iloc[0]
        else:
            for metric in ("exact_match", "token_accuracy", "rouge1", "rouge2"):
                row[metric] = round(float(cell[metric].mean()), 3)
            summary = json.loads(Path(out, "cells", str(name), "summary.json").read_text())
            row["overlap"] = {
                attack: {end: round(value, 3) for end, value in one["bag_f1"].items()}
                for attack, one in summary["leakage"].items()
            }
            row["utility_after"] = round(float(cell["utility_after"].iloc[0]), 4)
            row["verdicts"] = cell.groupby("client")["verdict"].first().value_counts().to_dict()
        rows.append(json.loads(json.dumps(row, default=lambda value: value.item())))
    return rows


def killed(words: list[str], whole: str, out: str, log: Path) -> dict[str, Any]:
    """Kill the command half-way, give it again; compare its table with that of ``whole``."""
    child, path, done, cells = start(words, out, log), Path(out, "sweep.json"), 0, 1
    while done < cells / 2:
        time.sleep(0.2)
        if path.exists():
            rows = json.loads(path.read_text())["cells"]
            done, cells = sum(row["status"] == "done" for row in rows), len(rows)
    time.sleep(1.0)  # into the next cell
    child.send_signal(signal.SIGKILL)
    child.wait()
    start(words, out, log).wait()
    first, again = (pd.read_parquet(f"{one}/table.parquet") for one in (whole, out))
    same = first.drop(columns=TIMES).equals(again.drop(columns=TIMES))
    return {"cells": cells, "done_when_killed": done, "rows": len(again), "same_table": same}


def main() -> None:
    """Measure the parts asked for, print and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", default=PARTS, help=", ".join(PARTS))
    wanted = parser.parse_args().part
    need_data()
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    record |= {
        "claim": "the FedAvg audit and the defense test are one command each",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work, no GPU",
        "dtype": "float32",
        "seed": 1,
        "weights": "random",
        "jobs": 1,
    }
    with tempfile.TemporaryDirectory() as work:
        log = Path(work, "log")
        parts = {
            "fedavg": lambda: measure(FEDAVG, f"{work}/fedavg", log),
            "killed": lambda: killed(FEDAVG, f"{work}/fedavg", f"{work}/killed", log),
            "seeds": lambda: measure(SEEDS, f"{work}/seeds", log),
            "batches": lambda: measure(BATCHES, f"{work}/batches", log),
            "gpt2": lambda: measure(GPT2, f"{work}/gpt2", log),
            "defenses": lambda: measure(DEFENSES, f"{work}/defenses", log),
        }
        for name in wanted:
            record[name] = parts[name]()
            shown = {key: value for key, value in record[name].items() if key != "table"}
            print(name, json.dumps(shown), flush=True)
            if name in PICTURES:
                picture(f"{work}/{name}", log, PICTURES[name], f"sweep_{name}")
            RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
