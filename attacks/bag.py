"""Read which tokens are in a batch off the rows of the word embeddings.

Source:      Melis et al., "Exploiting Unintended Feature Leakage in Collaborative Learning", IEEE
             S&P 2019, arXiv:1805.04049.
Assumes:     word embeddings that train.
Recovers:    the types: which tokens were read, each once, in no order and of no text by itself;
             exactly at any size of batch, where the head is not tied and no noise was added. Of
             AdamW's local steps also the step of most types that one step alone had, and by learned
             positions about where they stood (``sequences``: the types without a step, then those
             of each step, in that order). A causal-lm text's last token is only predicted: untied,
             its row stays (``labels`` reads it).
Deviations:  the paper tests for zero; here a floor comes from the quietest rows (noise), the size
             of the weights (rounding) and of a step (AdamW's decay). A tied head moves every row:
             those that are out of the others' span are named, of AdamW's steps those whose signs
             are against the others'. Steps and positions are ours.

It is scored as what it says: precision and recall of types over the whole batch. No text of it is
exact. Its controls are the usual ones: unrelated sentences' types, those that it reads in another
client's update, and its own batch, where it must read most types or its silence says nothing.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from typing_extensions import override

from attacks.base import Attack
from attacks.reads import Dated, moved_rows, read_clock
from fedsim.messages import Observation, Reconstruction
from fedsim.models import ModelAdapter
from fedsim.types import Reads, Tokens


@dataclass(frozen=True, kw_only=True)
class Bag(Attack):
    """The tokens whose rows moved, by local steps where a clock tells them."""

    kind: ClassVar = "analytic"
    needs_loss: ClassVar[bool] = False

    @override
    def applies(self, model: ModelAdapter) -> bool:
        module: Any = model.module
        return bool(module.get_input_embeddings().weight.requires_grad)

    @override
    def reads(self, model: ModelAdapter) -> Reads:
        return "types"

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        moved = moved_rows(observation)
        dated = read_clock(observation, moved)
        return Reconstruction(
            sequences=by_step(moved.tokens, dated),
            diagnostics={
                "types": len(moved.tokens),
                "tied": moved.tied,
                "floor": moved.floor,
                "clear": moved.clear,
                "steps": dated.steps,
                "dated": len(dated.step),
                "placed": len(dated.place),
            },
        )


def by_step(tokens: Tokens, dated: Dated) -> tuple[Tokens, ...]:
    """Return the types without a step, then those of each step, by position where it is told."""
    if not tokens:
        return ()
    rows = [tuple(token for token in tokens if token not in dated.step)]
    for number in range(1, dated.steps + 1):
        some = [token for token in tokens if dated.step.get(token) == number]
        rows.append(tuple(sorted(some, key=lambda token: dated.place.get(token, 0))))
    return tuple(rows)
