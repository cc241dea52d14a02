"""The order of the papers: LAMP > TAG >= DLG; GRAB > LAMP with dropout on and embeddings frozen.

Same batches for every attack, the papers' knowledge (labels, lengths, batch size), MiniLM's trained
layers under a random head. Steps are fewer than the papers' 2,500 and 2,000: on other sentences
LAMP's and DLG's tokens stood still after 300, TAG's moved slowly on; the record has them. Needs
the real data beside the checkout. Cells can be run one by one:

    python benchmarks/run.py matching/order --layers 2 --only "cola B=1 lamp" --limit 3

The cells with a prior need one: fedsim train-prior MINILM --data sst2 --path SST2 --out PRIOR, and
--prior PRIOR.
"""

import functools
from typing import Any

from common.victims import Pool, Victim, minilm, texts
from matching.shared import begin, measured, prior_note

from attacks import Attack, Dlg, Grab, Lamp, Tag

# practical (dropout on, embeddings frozen), data set, batch size, updates; the main cells first
PLANS = (
    (False, "cola", 1, 10),
    (True, "cola", 1, 10),
    (False, "cola", 2, 5),
    (False, "sst2", 1, 5),
    (False, "rotten_tomatoes", 1, 5),
    (True, "cola", 2, 5),
)
FROZEN = ("embeddings",)
GRAB: dict[str, Any] = {"starts": 50, "steps": 250, "alternations": 2, "beams": 2, "patience": 100}
COSINE: dict[str, Any] = {"distance": "cosine", "alpha_norm": 1.0, "steps": 400, "iterations": 2}


def attacks(data: str, practical: bool, prior: str) -> dict[str, Attack]:
    """Return the attacks of a cell's batches."""
    if practical:
        return {
            "lamp": Lamp(steps=600),
            "grab, cosine": Grab(**GRAB | COSINE),
            "grab, cosine, masks not learnt": Grab(**GRAB | COSINE, learn_dropout=False),
            "grab": Grab(**GRAB),
            "2,000 steps of lamp": Lamp(),  # the papers'
            "5 x 2,000 steps of grab": Grab(),
        }
    found: dict[str, Attack] = {
        "lamp": Lamp(),
        "tag": Tag(steps=400),
        "dlg": Dlg(steps=300),
        "grab": Grab(**GRAB),
        "2,500 steps of tag": Tag(),  # the papers'
        "2,500 steps of dlg": Dlg(),
    }
    if not prior or data != "cola":  # it is of SST-2's text, which was made from Rotten Tomatoes
        return found
    paper = Lamp(prior=prior, relative_nats=False)
    return found | {"lamp+prior": Lamp(prior=prior), "paper's lamp+prior": paper}


@functools.cache
def setting(layers: int, practical: bool, data: str) -> tuple[Victim, Pool]:
    """Return the model and the sentences, built when a cell needs them."""
    fields: dict[str, Any] = {"freeze": FROZEN} if practical else {}
    who = minilm(layers, **fields)
    return who, texts(who, data)


def main() -> None:
    """Measure what is not there yet."""
    options, cells = begin("matching_order", "DLG <= TAG < LAMP; GRAB > LAMP in practice")
    for practical, data, size, count in PLANS:
        for label, attack in attacks(data, practical, options.prior).items():
            measure = functools.partial(row, options.layers, practical, data, size, attack)
            where = f"{'practical ' if practical else ''}{data} B={size} {label}"
            record = repr(attack).replace(options.prior or "\0", "PRIOR")
            told = {"layers": options.layers, "attack": record}
            told |= prior_note(options) if "PRIOR" in record else {"prior": None}
            cells.fill(where, told, count, measure)


def row(
    layers: int, practical: bool, data: str, size: int, attack: Attack, index: int
) -> dict[str, Any]:
    """Attack batch ``index`` of the data set."""
    who, pool = setting(layers, practical, data)
    return measured(who, pool, attack, index, size=size, dropout=practical)


if __name__ == "__main__":
    main()
