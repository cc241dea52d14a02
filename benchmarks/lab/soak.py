"""A tap that never ends a training: rounds of messages laid out at random, with it and without.

Each project is run twice, tapped and plain. Both must get the same replies, bit for bit, and
FedAvg must make the same of them, be it an error; every reply that is laid out as Flower's own
must be captured under its round, client and count. Prints what was seen; exits 1 where that is not
so.

    python benchmarks/run.py lab/soak [--rounds 200] [--seed 0]
"""

import argparse
import logging
import tempfile
import time
from collections import Counter
from pathlib import Path

from fedsim.flower import set_identity
from tests.server.soaked import EACH, project


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="soak.py")
    parser.add_argument("--rounds", type=int, default=200, help="of all projects")
    parser.add_argument("--seed", type=int, default=0, help="of the first project")
    args = parser.parse_args()
    set_identity()
    logging.disable(logging.CRITICAL)
    wrong, total, started = list[str](), Counter[str](), time.perf_counter()
    for seed in range(args.seed, args.seed + -(-args.rounds // EACH)):
        with tempfile.TemporaryDirectory() as folder:
            lines, counts = project(seed, Path(folder))
        wrong += lines
        total += counts
    print(*wrong, sep="\n")
    seconds = time.perf_counter() - started
    print(f"{args.rounds} rounds in {seconds:.1f} s: {dict(total)}; {len(wrong)} wrong")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
