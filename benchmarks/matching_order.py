"""The order of the papers: LAMP > TAG >= DLG; GRAB > LAMP with dropout on and embeddings frozen.

Same batches for every attack, the papers' knowledge (labels, lengths, batch size), MiniLM's trained
layers under a random head. Needs the real data beside the checkout. Cells can be run one by one:

    python benchmarks/matching_order.py --only "cola B=1 lamp" --limit 3
"""

import functools
from typing import Any

from dager_common import Pool, Victim
from matching_common import (
    attacked,
    begin,
    minilm,
    observation,
    prior_note,
    texts,
    unrelated,
    update_of,
)

from attacks import Attack, Dlg, Grab, Lamp, Tag

# data set, batch size, updates
BATCHES = (("cola", 1, 10), ("cola", 2, 5), ("sst2", 1, 5), ("rotten_tomatoes", 1, 5))
FROZEN = ("embeddings",)


def attacks(prior: str) -> dict[str, Attack]:
    """Return the attacks with dropout off and embeddings trained."""
    found: dict[str, Attack] = {
        "dlg": Dlg(),
        "tag": Tag(),
        "lamp": Lamp(),
        "grab": Grab(starts=500),
    }
    return found | ({"lamp+prior": Lamp(prior=prior)} if prior else {})


@functools.cache
def setting(layers: int, practical: bool, data: str) -> tuple[Victim, Pool]:
    """Return the model and the sentences, built when a cell needs them."""
    fields: dict[str, Any] = {"freeze": FROZEN} if practical else {}
    who = minilm(layers, **fields)
    return who, texts(who, data)


def main() -> None:
    """Measure what is not there yet."""
    options, cells = begin("matching_order", "DLG <= TAG < LAMP; GRAB > LAMP in practice")
    for practical in (False, True):
        for data, size, count in BATCHES[: 2 if practical else 4]:
            known = attacks(options.prior)
            if practical:
                known["grab, masks not learnt"] = Grab(starts=500, learn_dropout=False)
            for label, attack in known.items():
                measure = functools.partial(row, options.layers, practical, data, size, attack)
                where = f"{'practical ' if practical else ''}{data} B={size} {label}"
                record = repr(attack).replace(options.prior or "\0", "PRIOR")
                told = {"layers": options.layers, "attack": record, **prior_note(options)}
                cells.fill(where, told, count, measure)


def row(
    layers: int, practical: bool, data: str, size: int, attack: Attack, index: int
) -> dict[str, Any]:
    """Attack batch ``index`` of the data set."""
    who, pool = setting(layers, practical, data)
    examples, others = pool.draw(size, 1, index), pool.draw(size, 2, index)
    update = update_of(who, examples, dropout=practical, seed=index)
    seen = observation(who, examples, update, dropout=practical)
    found = attacked(who, seen, examples, attack, index)
    return {**found, "unrelated": unrelated(who, examples, others)}


if __name__ == "__main__":
    main()
