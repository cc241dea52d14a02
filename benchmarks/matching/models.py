"""LAMP and TAG on the other architectures: BERT-base and GPT-2 at their real size, a trained LLaMA.

BERT-base and GPT-2 have random weights, the LLaMA of 260,032 parameters (stories260K) trained ones.
CoLA, B = 1, the papers' knowledge, few sentences and few steps: the record has them.
"""

import functools
from collections.abc import Callable

from common.results import Cell
from common.victims import Pool, Victim, bert_base, gpt2, stories, texts
from matching.shared import begin, measured

from attacks import Attack, Lamp, Tag

# how its weights came about, how it is built, steps, sentences
MODELS: dict[str, tuple[str, Callable[[], Victim], int, int]] = {
    "stories260K": ("trained", lambda: stories(task="causal-lm"), 300, 5),
    "stories260K, classification": ("trained, random head", stories, 300, 5),
    "bert-base": ("random", bert_base, 100, 5),
    "gpt2": ("random", gpt2, 100, 5),
}


@functools.cache
def setting(name: str) -> tuple[Victim, Pool]:
    """Return a model and the sentences, built when a cell needs them."""
    who = MODELS[name][1]()
    return who, texts(who, "cola")


def row(name: str, attack: Attack, index: int) -> Cell:
    """Attack one sentence."""
    return measured(*setting(name), attack, index)


def main() -> None:
    """Measure what is not there yet."""
    _, cells = begin("matching_models", "LAMP and TAG on other architectures")
    cells.head["weights"] = "each cell says its own"
    for name, (weights, _, steps, count) in MODELS.items():
        for attack in (Lamp(steps=steps, starts=50), Tag(steps=steps)):
            label = f"{name} / {type(attack).__name__.lower()}"
            told = {"weights": weights, "attack": repr(attack)}
            cells.fill(label, told, count, functools.partial(row, name, attack))


if __name__ == "__main__":
    main()
