"""How often each sentence was in an encoder's batch, by the gradient of a classifier's head.

That is the sum over the sentences of dL/dlogits times what the head reads of each, which is known
once the sentences are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.dager.back import solved
from attacks.dager.counts import Counts, SeenTexts, count, enough, spread
from attacks.dager.gates import Gates
from attacks.reads import example_share, shares_are_even, shown_decay
from fedsim.messages import Observation
from fedsim.types import Tokens


def with_counts(
    observation: Observation, sentences: Sequence[Tokens], notes: Notes, *, trusted: bool
) -> tuple[Tokens, ...]:
    """Return ``sentences`` as often as a head's gradient tells; how sure that is goes in notes.

    Where the search ended with all that the spans hold, each sentence stands for one example at
    least; so as many sentences as the client has examples stand for one each. Of masked-lm they are
    what the model read: never sure, as some tokens are the mask's, and some others were drawn.

    Args:
        observation: of an encoder's update.
        sentences: each once.
        notes: say how the search ended, and get how sure the counts are.
        trusted: whether the head tells texts from texts like them, so that its word is enough for
            copies, and where the search did not end with all. Where positions are relative, what
            it reads of another order differs by some 1e-5 of its length.
    """
    examples, complete = observation.update.num_examples, not notes["best_effort"]
    once = Counts((1,) * len(sentences), complete and 0 < len(sentences) == examples)
    counts = (_counts(observation, sentences, complete, notes) if sentences else None) or once
    if 0 in counts.times:
        counts = Counts(once.times, False)
    hidden = observation.model.spec.task == "masked-lm"  # what stands where a token was replaced
    if hidden:
        mask = observation.model.tokenizer.mask_token_id
        notes["masked"] = sum(sentence.count(mask) for sentence in sentences)
    enough_said = trusted or (complete and max(counts.times, default=0) <= 1)
    sure = counts.sure and not notes["alike"] and not hidden and enough_said
    notes |= {"counted": sure, "best_effort": not sure}
    even = trusted and shares_are_even(observation)
    seen = sum(counts.times) if sure or even else len(sentences)
    notes |= {"above_floor": min(seen, examples)}
    repeated = zip(sentences, counts.times, strict=True)
    read = tuple(sentence for sentence, times in repeated for _ in range(times))
    return read if complete else _bounded(read, examples, notes)


def orders_tell(gates: Gates, sentences: Sequence[Tokens]) -> bool:
    """Return whether no two neighbours in a sentence can change places and be in the span still.

    Trained weights may read two orders of a text so much alike that a head takes one for the other.
    """
    for sentence in dict.fromkeys(sentences):
        places = torch.arange(1, max(1, len(sentence) - 2))  # special tokens stand around a text
        rows = torch.tensor(sentence).repeat(len(places), 1)
        here, after = rows.gather(1, places[:, None]), rows.gather(1, places[:, None] + 1)
        rows.scatter_(1, places[:, None], after).scatter_(1, places[:, None] + 1, here)
        rows = rows[(here != after)[:, 0]]
        if len(rows) and (gates.inner.excess(gates.inputs(rows)) < 1.0).all(dim=1).any():
            return False
    return True


def _bounded(read: tuple[Tokens, ...], examples: int, notes: Notes) -> tuple[Tokens, ...]:
    """Return what was ``read``, no more than the client's ``examples``; notes what is dropped.

    A client may state fewer than there are. So a sentence that a span without blur bears out is
    kept, as long as that shows so many tokens.
    """
    if not examples or len(read) <= examples:
        return read
    kept = list(read[:examples])
    for sentence in dict.fromkeys(read[examples:]):
        tokens = sum(map(len, {*kept, sentence}))
        if not notes["blurred_1"] and tokens <= notes["rank_1"] and sentence not in kept:
            kept.append(sentence)
    dropped = len(set(read) - set(kept))
    notes["dropped"] += dropped
    notes["cut"] = notes["cut"] or dropped > 0
    return tuple(kept)


def explains(observation: Observation, sentences: Sequence[Tokens]) -> bool:
    """Return whether a classifier's head was told of no other sentences, but for rounding."""
    shown = _shown(observation, sentences)
    return shown is not None and shown.explained >= shown.enough


@dataclass(frozen=True)
class Shown:
    """What the gradient of a classifier's head says of N sentences.

    Attributes:
        texts: what came back to each, known to be there or not.
        explained: the share of its square that they explain.
        enough: what is all of it, but for rounding.
    """

    texts: SeenTexts
    explained: float
    enough: float


def _shown(
    observation: Observation, sentences: Sequence[Tokens], complete: bool = False
) -> Shown | None:
    """Return what a classifier's head shows of sentences, if the update has it.

    Args:
        observation: of an encoder's update.
        sentences: each once.
        complete: whether each is known to be there, and no other.
    """
    if observation.model.spec.task != "classification":
        return None
    name, states, logits = observation.model.decisions(observation.broadcast.parameters, sentences)
    update = observation.update.tensors.get(name)
    if update is None:
        return None
    head = observation.broadcast.parameters[name].double()
    gradient = update.double() - shown_decay(observation) * head  # (K, D)
    gradient = -gradient if observation.update.kind == "delta" else gradient
    states, chances = states.cpu().double(), logits.cpu().double().softmax(dim=1)
    amounts, noise, explained = solved(states, gradient.T)  # (N, K), (N,)
    texts = SeenTexts(
        chances=chances,
        slack=spread(chances, head, states),
        amounts=amounts,
        doubt=thresholds.DOUBT * noise,
        there=torch.full((len(sentences),), complete),
    )
    return Shown(texts, explained, enough(update))


def _counts(
    observation: Observation, sentences: Sequence[Tokens], complete: bool, notes: Notes
) -> Counts | None:
    """Return the sentences' counts by a classifier's head; None where that shows nothing of them.

    ``notes`` get the share of the gradient's square that they explain.
    """
    shown = _shown(observation, sentences, complete)
    if shown is None:
        return None
    notes["explained"] = shown.explained
    if shown.explained < shown.enough:
        return None
    examples, share = observation.update.num_examples, example_share(observation)
    even = shares_are_even(observation)
    told = count(shown.texts, examples, share, even=even, notes=notes)
    return told or Counts((1,) * len(sentences), False)  # what it shows is something else
