"""How often each sentence was in an encoder's batch, by the gradient of a classifier's head.

That is the sum over the sentences of dL/dlogits times what the head reads of each, which is known
once the sentences are.
"""

from collections.abc import Sequence

import torch

from attacks.base import Notes
from attacks.dager import thresholds
from attacks.dager.back import solved
from attacks.dager.counts import Counts, Texts, count, enough, spread
from attacks.reads import example_share, shares_are_even, shown_decay
from fedsim.messages import Observation
from fedsim.types import Tokens


def with_counts(
    observation: Observation, sentences: Sequence[Tokens], notes: Notes
) -> tuple[Tokens, ...]:
    """Return ``sentences`` as often as a head's gradient tells; how sure that is goes in notes.

    Where the search ended with all that the spans hold, each sentence stands for one example at
    least; so as many sentences as the client has examples stand for one each. Of masked-lm they are
    what the model read: never sure, as some tokens are the mask's, and some others were drawn.
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
    sure = counts.sure and not notes["alike"] and not hidden
    notes |= {"counted": sure, "best_effort": not sure}
    seen = sum(counts.times) if sure or shares_are_even(observation) else len(sentences)
    notes |= {"above_floor": min(seen, examples)}
    repeated = zip(sentences, counts.times, strict=True)
    read = tuple(sentence for sentence, times in repeated for _ in range(times))
    return read if complete else read[: examples or None]


def _counts(
    observation: Observation, sentences: Sequence[Tokens], complete: bool, notes: Notes
) -> Counts | None:
    """Return the sentences' counts by a classifier's head; None where that shows nothing of them.

    Args:
        observation: of an encoder's update.
        sentences: each once.
        complete: whether each is known to be there, and no other.
        notes: get the share of the gradient's square that they explain.
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
    amounts, noise, notes["explained"] = solved(states, gradient.T)  # (N, K), (N,)
    if notes["explained"] < enough(update):
        return None
    texts = Texts(
        chances=chances,
        slack=spread(chances, head, states),
        amounts=amounts,
        doubt=thresholds.DOUBT * noise,
        there=torch.full((len(sentences),), complete),
    )
    examples, share = observation.update.num_examples, example_share(observation)
    told = count(texts, examples, share, even=shares_are_even(observation))
    return told or Counts((1,) * len(sentences), False)  # what it shows is something else
