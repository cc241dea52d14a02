"""Claim: the fast DAGER takes a small share of the time of the paper's own algorithms.

Measures, in one process, on the same gradients of GPT-2 at its real size (random weights), with the
same threads: the attack, and `attacks/dager/plain.py`, the paper's algorithms written plainly. The
plain one stops at a cap, and its time is then a lower bound. First both must give the same
sentences on a small batch. Besides: how the attack's time grows with vocabulary, length and batch,
and where it goes. Writes results/dager_speed.json.

With --against: the attack of another checkout and this one's in turns (against.py), nothing else.

    python benchmarks/run.py dager/speed [--part ratio growth profile] [--cap 600]
    python benchmarks/run.py dager/speed --against /path/to/another/checkout [--turns 4]
"""

import argparse
import cProfile
import math
import pstats
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from common.attempts import attempt, score, timed
from common.results import Cell, Results, arguments, code, markdown, start
from common.victims import Pool, Victim, gpt2, gradient, observation, pool, prefixes, victim
from dager.against import measure_against
from dager.clocked import Progress, run_plain
from transformers import GPT2Config

from attacks.dager.attack import Dager
from attacks.dager.plain import PlainDager
from fedsim.models import ModelSpec
from fedsim.rng import stream
from fedsim.training import Examples
from fedsim.types import Tokens

VOCABULARIES = (8_000, 16_000, 32_000, 50_257)
LENGTHS = (8, 16, 24, 32, 48, 64)  # at B = 4
SIZES = (1, 2, 4, 8, 16, 32)  # at T = 16
LENGTH = 16
JOINED = 16  # sentences joined to one of a given length
TOP = 20  # lines of the profile


def ours(who: Victim, examples: Examples, repeats: int) -> Cell:
    """Return the times of ``repeats`` attacks on one gradient, and what the last one found."""
    update = gradient(who, examples)
    runs = [attempt(who, update, examples, seed=1) for _ in range(repeats)]
    return {
        "seconds": median(run.cost.seconds for run in runs),
        "all_seconds": [run.cost.seconds for run in runs],
        "cpu_seconds": median(run.cost.cpu_seconds for run in runs),
        "peak_gb_beyond_model": max(run.cost.peak_gb for run in runs),
        "exact": runs[-1].exact,
        "sentences": len(examples),
        "n": runs[-1].tokens,
        "distinct_prefixes": runs[-1].prefixes,
        "longest": runs[-1].longest,
        "vocabulary": who.adapter.vocabulary,
        "diagnostics": dict(runs[-1].diagnostics),
    }


# Against the paper's algorithms


def check(who: Victim, sentences: Pool) -> None:
    """Have both attacks give the same sentences on two small batches."""
    for index in range(2):
        examples = sentences.draw(2, seed=0, index=index)
        observed = observation(who, gradient(who, examples))
        fast = Dager().reconstruct(observed, stream(1, "attack")).sequences
        plain = PlainDager().run(observed)
        assert set(plain) == set(fast), (plain, fast)
        assert set(plain) == set(examples.sequences), plain
    print("the plain attack and ours agree on two small batches, and both are right", flush=True)


def ratio(who: Victim, examples: Examples, cap: float, repeats: int) -> Cell:
    """Return the times of both attacks on one gradient."""
    fast = ours(who, examples, repeats)
    observed = observation(who, gradient(who, examples))
    done, cost = timed(lambda: run_plain(observed, cap))
    samples, failures, surplus = score(who.adapter, examples.sequences, done.sequences)
    least = least_seconds(done, examples.sequences)
    return {
        "ours": fast,
        "naive": {
            "finished": done.finished,
            "seconds": round(done.seconds, 2),
            "cpu_seconds": cost.cpu_seconds,
            "seconds_svd": round(done.seconds_svd, 2),
            "seconds_tokens": round(done.seconds_tokens, 2),
            "seconds_search": round(done.seconds_search, 2),
            "peak_gb_beyond_model": cost.peak_gb,
            "ranks": done.ranks,
            "passing_by_position": done.passing,
            "pairs_by_position": done.pairs,
            "pairs": sum(done.pairs),
            "exact": len(samples) - len(failures) if done.finished else None,
            "surplus_guesses": surplus if done.finished else None,
            "least_seconds_of_the_whole": round(least, 1),
        },
        "ratio": round(done.seconds / fast["seconds"], 1),
        "ratio_is_a_lower_bound": not done.finished,
        "ratio_of_the_whole_at_least": round(least / fast["seconds"], 1),
    }


def least_seconds(done: Progress, sentences: tuple[Tokens, ...]) -> float:
    """Return the least time the whole search would have taken: its time, if it finished.

    What is left is at least every true prefix times every token that passes at its position, at
    the least time per token that a full chunk took. That is a lower bound as long as no true prefix
    is lost: false ones come on top. Without a full chunk nothing is added.
    """
    if done.finished or math.isinf(done.least_rate):
        return done.seconds
    true = [1, *prefixes(sentences)]
    left = 0
    for place, passing in enumerate(done.passing):
        before = true[place] if place < len(true) else 0
        ran = done.pairs[place] if place < len(done.pairs) else 0
        left += max(0, before * passing - ran) * (place + 1)
    return done.seconds + left * done.least_rate


def ratios(who: Victim, sentences: Pool, results: Results, options: argparse.Namespace) -> None:
    """Measure both attacks on batches of 4 and of 16."""
    naive = code(PlainDager.__module__)
    plan = [(size, i) for size, count in options.ratio_batches for i in range(count)]
    for size, index in plan:
        settings = {"cap": options.cap, "repeats": options.repeats, "naive": naive}
        examples = sentences.draw(size, options.seed, index)
        cell = results.cell(
            f"ratio rotten_tomatoes B={size} batch {index}",
            settings | {"seed": options.seed},
            lambda examples=examples: ratio(who, examples, options.cap, options.repeats),  # type: ignore[misc]
        )
        print(_ratio_line(cell), flush=True)


def _ratio_line(cell: Cell) -> str:
    least = "at least " if cell["ratio_is_a_lower_bound"] else ""
    return (
        f"  ours {cell['ours']['seconds']:.2f} s, naive {least}{cell['naive']['seconds']:.1f} s "
        f"({cell['naive']['pairs']} pairs): {least}{cell['ratio']} times"
    )


# Growth


def resized(vocabulary: int) -> Victim:
    """Return GPT-2 at its real size but for ``vocabulary`` tokens.

    Its tokenizer is the presets' small one and is only asked for special tokens.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = GPT2Config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0)
        config.save_pretrained(folder)
        spec = ModelSpec(name=folder, tokenizer="builtin:gpt2-tiny", weights="random")
        return victim(spec)


def cut(sentences: Pool, size: int, length: int, seed: int) -> Examples:
    """Return ``size`` different sequences of ``length`` tokens each, of sentences joined."""
    drawn = sentences.draw(size * JOINED, seed, 0).sequences
    rows = [drawn[row * JOINED : (row + 1) * JOINED] for row in range(size)]
    sequences = tuple(tuple(t for tokens in row for t in tokens)[:length] for row in rows)
    assert len(set(sequences)) == size and {len(tokens) for tokens in sequences} == {length}
    return Examples(sequences=sequences, labels=tuple(row % 2 for row in range(size)))


def growth(who: Victim, sentences: Pool, results: Results, options: argparse.Namespace) -> None:
    """Measure the attack over V, T and B, one of them changing at a time."""
    repeats = options.repeats
    settings = {"repeats": repeats, "seed": options.seed}
    common = sentences.only(lambda tokens: 8 <= min(tokens) and max(tokens) < VOCABULARIES[0])
    for vocabulary in options.vocabularies:
        batch = common.draw(4, options.seed, 0)
        results.cell(
            f"growth V={vocabulary}, rotten_tomatoes B=4",
            settings,
            lambda v=vocabulary, batch=batch: ours(resized(v), batch, repeats),  # type: ignore[misc]
        )
    for length in options.lengths:
        batch = cut(sentences, 4, length, options.seed)
        results.cell(
            f"growth T={length}, B=4",
            settings,
            lambda batch=batch: ours(who, batch, repeats),  # type: ignore[misc]
        )
    for size in options.sizes:
        batch = cut(sentences, size, LENGTH, options.seed)
        results.cell(
            f"growth B={size}, T={LENGTH}",
            settings,
            lambda batch=batch: ours(who, batch, repeats),  # type: ignore[misc]
        )


# Where the time goes


def profile(who: Victim, examples: Examples) -> Cell:
    """Return the functions that the attack spends its own time in, and its own clocks."""
    update = gradient(who, examples)
    attempt(who, update, examples, seed=1)  # the first run pays for what later ones find ready
    profiler = cProfile.Profile()
    observed = observation(who, update)
    guess = profiler.runcall(Dager().reconstruct, observed, stream(1, "attack"))
    stats: Any = pstats.Stats(profiler)
    rows = [
        {
            "function": f"{Path(file).name}:{name}",
            "calls": calls,
            "own_seconds": round(own, 3),
            "seconds": round(total, 3),
        }
        for (file, _, name), (_, calls, own, total, _) in stats.stats.items()
    ]
    rows.sort(key=lambda row: -float(str(row["own_seconds"])))
    diagnostics = guess.diagnostics.items()
    return {
        "seconds_with_profiler": round(stats.total_tt, 2),
        "clocks": {name: value for name, value in diagnostics if name.startswith("seconds")},
        "diagnostics": dict(diagnostics),
        "top": rows[:TOP],
    }


def table(results: Results) -> str:
    """Return ratios and growth as one table."""
    rows = []
    for name, cell in results.cells.items():
        if name.startswith("ratio"):
            least = ">= " if cell["ratio_is_a_lower_bound"] else ""
            naive = f"{least}{cell['naive']['seconds']:.1f}"
            whole = f"{cell['naive']['least_seconds_of_the_whole']:.0f}" if least else ""
            rows.append(_row(name, cell["ours"], naive, f"{least}{cell['ratio']}", whole))
        elif name.startswith("growth"):
            rows.append(_row(name, cell, "", "", ""))
    columns = ["cell", "exact", "prefixes", "ours, s", "GB", "naive, s", "ratio"]
    return markdown([*columns, "naive, whole, s >="], rows)


def _row(name: str, cell: Cell, *rest: str) -> list[str]:
    exact = f"{cell['exact']}/{cell['sentences']}"
    seconds = f"{cell['seconds']:.2f}"
    memory = f"{cell['peak_gb_beyond_model']:.2f}"
    return [name, exact, str(cell["distinct_prefixes"]), seconds, memory, *rest]


def main() -> None:
    """Measure the parts asked for; write after each cell."""
    parser = arguments(__doc__ or "")
    parts = ("ratio", "growth", "profile")
    parser.add_argument("--part", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--cap", type=float, default=600.0, help="seconds for one naive attack")
    parser.add_argument("--repeats", type=int, default=3, help="of our attack on each gradient")
    parser.add_argument("--small", action="store_true", help="one point of each, to try it out")
    parser.add_argument("--against", type=Path, help="another checkout: old against new alone")
    parser.add_argument("--turns", type=int, default=4, help="of old and new")
    options = parser.parse_args()
    options.ratio_batches = ((4, 1),) if options.small else ((4, 3), (16, 1))
    options.vocabularies = VOCABULARIES[:1] if options.small else VOCABULARIES
    options.lengths = LENGTHS[:1] if options.small else LENGTHS
    options.sizes = SIZES[:1] if options.small else SIZES
    claim = "the fast DAGER takes a small share of the time of the paper's own algorithms"
    if options.against is not None:
        measure_against(options)
        return
    results = start(options, "dager_speed", claim, model="GPT-2 at real size, random weights")
    who = gpt2()
    sentences = pool(who.adapter, "rotten_tomatoes")
    if "ratio" in options.part:
        check(who, pool(who.adapter, "cola"))
        ratios(who, sentences, results, options)
    if "growth" in options.part:
        growth(who, sentences, results, options)
    if "profile" in options.part:
        size = 4 if options.small else 16
        batch, settings = sentences.draw(size, options.seed, 0), {"seed": options.seed}
        results.cell(f"profile rotten_tomatoes B={size}", settings, lambda: profile(who, batch))
    text = table(results)
    results.write(table=text)
    print(text)


if __name__ == "__main__":
    main()
