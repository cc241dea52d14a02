"""How long 1,000 samples take to score and to report, and how large the report is.

    python benchmarks/run.py lab/report            -> benchmarks/results/report.json

The run is made by rules from a seed: sentences of the built-in corpus, of which each token was
read with a chance of 0.7. Seconds are of the wall clock, and of this process' own processor time.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.places import RESULTS

from fedsim.lab.report import write_report
from fedsim.lab.scoring.again import adapter_of
from fedsim.lab.scoring.scorer import Scorer
from fedsim.lab.store.run import RunDirectory
from fedsim.vault.reader import VaultReader
from tests.lab.synthetic import synthetic_run

RECORD = RESULTS / "report.json"
ROUNDS, CLIENTS, BATCH, SEED = 25, 8, 5, 1


def timed(function: Callable[[], Any]) -> dict[str, float]:
    wall, own = time.perf_counter(), time.process_time()
    function()
    return {
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - own, 2),
    }


def score(run: RunDirectory) -> None:
    scorer = Scorer(
        adapter=adapter_of(run),
        vault=VaultReader(run.vault),
        pool=run.pool(),
        controls=True,
        seed=SEED,
    )
    scorer.leakage(scorer.score(run.attempts()))


def measure(joined: int) -> dict[str, Any]:
    """Measure one run whose texts are so many sentences of the corpus each."""
    from clients.corpus import clinic

    corpus = [text for text, _ in clinic()]
    count = ROUNDS * CLIENTS * BATCH
    texts = [
        " ".join(corpus[(joined * k + j) % len(corpus)] for j in range(joined))
        for k in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = synthetic_run(
            Path(folder) / "run",
            rounds=ROUNDS,
            clients=CLIENTS,
            batch=BATCH,
            texts=texts,
            seed=SEED,
        )
        result = {
            "samples": count,
            "updates": ROUNDS * CLIENTS,
            "sentences_per_text": joined,
            "characters_per_text": round(sum(map(len, texts)) / count),
            "score_with_controls": timed(lambda: score(run)),
            "report": timed(lambda: write_report(run.root, redact=False)),
            "report_redacted": timed(lambda: write_report(run.root, redact=True)),
            "redacted_html_bytes": (run.root / "report.html").stat().st_size,
        }
        write_report(run.root, redact=False)
        result["html_bytes"] = (run.root / "report.html").stat().st_size
    return result


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_report(synthetic_run(Path(tempfile.mkdtemp()) / "warm").root, redact=False)  # imports
    found = {
        "what": "1,000 samples scored with controls, then reported; synthetic, seed 1",
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "note": "shared with other work while it was measured",
        },
        "runs": [measure(joined) for joined in (1, 4)],
    }
    RECORD.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
