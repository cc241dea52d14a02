"""Speed: LAMP against a plain loop of the same algorithm, GRAB with and without cached gradients.

The plain loop (naive_lamp.py) does what the papers' code does: one candidate at a time, whole
gradient matrices, create_graph in every evaluation. Ratios are of processor seconds in one run: the
machine is shared. LAMP runs all 2,000 steps of ours; of the plain loop it times some steps and
candidates before and after ours, and scales up: all cost the same, as the third cell shows, which
runs the plain loop to its end and scores it (choose --layers 2: it is slow).
"""

import time
from statistics import fmean
from typing import Any

import torch
from dager_attempts import score
from matching_common import attacked, begin, minilm, observation, texts, unrelated, update_of
from naive_lamp import NaiveLamp, naive_distance

from attacks import Lamp
from attacks.matching import L2, Problem, TokenScores
from fedsim.messages import Observation
from fedsim.rng import stream
from fedsim.training import Examples

UPDATES = 1
STEPS = 2000  # LAMP's own
CANDIDATES = 2 * 500 + 24 * 200  # starts, their orders, rearrangements
SUBSTITUTIONS = 96  # tokens tried at one place of a batch of GRAB_SIZE
GRAB_SIZE = 8


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
        naive = NaiveLamp(seen, stream(index, "attack"))
        before = naive.seconds()
        row = attacked(who, seen, examples, Lamp(patience=0), index)
        early = attacked(who, seen, examples, Lamp(), index)
        naive = NaiveLamp(seen, stream(index, "attack"))
        after = naive.seconds()
        step, candidate = (fmean(pair) for pair in zip(before, after, strict=True))
        plain = STEPS * step + CANDIDATES * candidate
        return {
            **row,
            "unrelated": unrelated(who, examples, pool.draw(1, 2, index)),
            "plain_step": [round(before[0], 4), round(after[0], 4)],
            "plain_candidate": [round(before[1], 4), round(after[1], 4)],
            "plain_seconds": round(plain, 1),
            "ratio": round(plain / row["cpu_seconds"], 2),
            "early_stop_seconds": early["cpu_seconds"],
            "early_stop_ratio": round(plain / early["cpu_seconds"], 2),
            "early_stop_rouge1": early["samples"][0]["rouge1"],
        }

    def whole(index: int) -> dict[str, Any]:
        examples, seen = seen_of(index, 1)
        row = attacked(who, seen, examples, Lamp(patience=0), index)
        started = time.process_time()
        found, times = NaiveLamp(seen, stream(index, "attack")).run(Lamp())
        plain = time.process_time() - started
        sample = score(who.adapter, examples.sequences, found)[0][0]
        quarter = STEPS // 4
        return {
            **row,
            "unrelated": unrelated(who, examples, pool.draw(1, 2, index)),
            "plain_seconds": round(plain, 1),
            "plain_rouge1": round(sample["rouge1"], 2),
            "plain_rouge2": round(sample["rouge2"], 2),
            "plain_step_by_quarter": [
                round(fmean(times[at : at + quarter]), 4) for at in range(0, STEPS, quarter)
            ],
            "ratio": round(plain / row["cpu_seconds"], 2),
        }

    def grab(index: int) -> dict[str, Any]:
        examples, seen = seen_of(index, GRAB_SIZE)
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
        started, few = time.process_time(), 4
        wanted = []
        for trial in trials[:few]:
            batch = ids.clone()
            batch[0] = trial
            wanted.append(naive_distance(seen, batch, problem, scores))
        plain = (time.process_time() - started) / few
        error = max(abs(a - b) / b for a, b in zip(found[:few].tolist(), wanted, strict=True))
        return {"cached": round(cached, 5), "plain": round(plain, 5),
                "ratio": round(plain / cached, 1), "relative_error": error}  # fmt: skip

    cells.fill("lamp, B=1", {"layers": options.layers}, UPDATES, lamp)
    cells.fill(f"grab substitution, B={GRAB_SIZE}", {"layers": options.layers}, 3, grab)
    cells.fill("whole plain loop, B=1", {"layers": options.layers}, 1, whole)


if __name__ == "__main__":
    main()
