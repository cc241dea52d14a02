"""Speed: LAMP against a plain loop of the same algorithm, GRAB with and without cached gradients.

The plain loop (naive_lamp.py) does what the papers' code does: one candidate at a time, whole
gradient matrices, create_graph in every evaluation, every rearrangement that is drawn. Both run all
2,000 steps to their end and are scored. Ratios are of processor seconds in one run: the machine is
shared.
"""

import functools
import time
from statistics import fmean
from typing import Any

import torch
from common.attempts import score
from common.victims import minilm, texts
from matching.naive_lamp import NaiveLamp, naive_distance
from matching.shared import attacked, begin, observation, unrelated, update_of

from attacks import Lamp
from attacks.matching import L2, Problem, TokenScores
from fedsim.messages import Observation
from fedsim.rng import stream
from fedsim.training import Examples

UPDATES = 3
STEPS = 2000  # LAMP's own
SUBSTITUTIONS = 96  # tokens tried at one place of a batch
GRAB_SIZES = (8, 16)


def main() -> None:
    """Measure what is not there yet."""
    options, cells = begin("matching_speed", "LAMP >= 3 x, GRAB's beam search >= 10 x")
    who = minilm(options.layers)
    pool = texts(who, "cola")

    def seen_of(index: int, size: int) -> tuple[Examples, Observation]:
        examples = pool.draw(size, 1, index)
        return examples, observation(who, examples, update_of(who, examples, seed=index))

    def lamp(index: int) -> dict[str, Any]:
        examples, seen = seen_of(index, 1)
        row = attacked(who, seen, examples, Lamp(patience=0), index)
        early = attacked(who, seen, examples, Lamp(), index)
        started = time.process_time()
        found, times = NaiveLamp(seen, stream(index, "attack")).run(Lamp())
        plain = time.process_time() - started
        sample = score(who.adapter, examples.sequences, found)[0][0]
        quarter = STEPS // 4
        return {
            **row,
            "unrelated": unrelated(who, examples, pool.draw(1, 2, index)),
            "tokens": len(examples.sequences[0]),
            "plain_seconds": round(plain, 1),
            "plain_rouge1": round(sample["rouge1"], 2),
            "plain_rouge2": round(sample["rouge2"], 2),
            "plain_step_by_quarter": [
                round(fmean(times[at : at + quarter]), 4) for at in range(0, STEPS, quarter)
            ],
            "ratio": round(plain / row["cpu_seconds"], 2),
            "early_stop_ratio": round(plain / early["cpu_seconds"], 2),
            "early_stop_rouge1": early["samples"][0]["rouge1"],
        }

    def grab(size: int, index: int) -> dict[str, Any]:
        examples, seen = seen_of(index, size)
        problem = Problem(seen, stream(index, "attack"), lambda _: L2(power=1))
        ids = problem.frame.tokens.clone()
        for row, tokens in enumerate(examples.sequences):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        trials = ids[0].repeat(SUBSTITUTIONS, 1)
        trials[:, 2] = torch.randint(999, 20_000, (SUBSTITUTIONS,), generator=stream(index, "t"))
        scores = TokenScores(problem, problem.first_targets(1))
        started = time.process_time()
        found = scores.replaced(ids, 0, trials)
        cached = (time.process_time() - started) / SUBSTITUTIONS
        batches = ids.repeat(SUBSTITUTIONS, 1, 1)
        batches[:, 0] = trials
        started = time.process_time()
        scores.whole(batches)  # the same engine, all sequences of every candidate computed
        uncached = (time.process_time() - started) / SUBSTITUTIONS
        started, few = time.process_time(), 8
        wanted = []
        for trial in trials[:few]:
            batch = ids.clone()
            batch[0] = trial
            wanted.append(naive_distance(seen, batch, problem, scores))
        plain = (time.process_time() - started) / few
        error = max(abs(a - b) / b for a, b in zip(found[:few].tolist(), wanted, strict=True))
        return {"cached": round(cached, 5), "plain": round(plain, 5),
                "ratio": round(plain / cached, 1), "relative_error": error,
                "uncached": round(uncached, 5),
                "cache_ratio": round(uncached / cached, 1)}  # fmt: skip

    cells.fill("lamp, B=1", {"layers": options.layers}, UPDATES, lamp)
    for size in GRAB_SIZES:
        measure = functools.partial(grab, size)
        cells.fill(f"grab substitution, B={size}", {"layers": options.layers}, UPDATES, measure)


if __name__ == "__main__":
    main()
