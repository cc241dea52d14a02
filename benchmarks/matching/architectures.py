"""LAMP on models of any type: what their modules read and were told, by one rule a kind of module.

    python benchmarks/run.py matching/architectures --only "mistral;albert"

Tiny models with random weights (shared/facts/generic_adapter/build_models.py), FedSGD, CoLA: two
clients of two sentences each, the papers' knowledge, 60 steps. Parameters that no rule covers
(experts, OPT's positions, DeBERTa's relative ones) are left out, and counted.
"""

import functools
import tempfile
from pathlib import Path

from common.results import Cell
from common.victims import Pool, Victim, pool
from dager.architectures import LONG, architectures, built
from matching.shared import begin, measured

from attacks import Lamp
from fedsim.errors import BadInput

CLIENTS, SIZE = 2, 2
LAMP = Lamp(steps=60, starts=50)


@functools.lru_cache(maxsize=1)
def setting(name: str) -> tuple[Victim, Pool]:
    """Return a model and the sentences, built when a cell needs them."""
    config, tokenizer, _ = architectures()[name]
    with tempfile.TemporaryDirectory() as folder:
        who = built(Path(folder), config, tokenizer, by_graph=False)
    return who, pool(who.adapter, "cola").only(lambda tokens: 4 <= len(tokens) <= LONG)


def row(name: str, index: int) -> Cell:
    """Attack one client's update."""
    return measured(*setting(name), LAMP, index, size=SIZE)


def main() -> None:
    """Measure what is not there yet."""
    _, cells = begin("matching_architectures", "LAMP runs on models of any type")
    cells.head["weights"] = "random"
    for name in architectures():
        try:
            setting(name)
        except BadInput as error:
            print(name, "is refused:", error)
            continue
        cells.fill(name, {"attack": repr(LAMP)}, CLIENTS, functools.partial(row, name))
    cells.write()


if __name__ == "__main__":
    main()
