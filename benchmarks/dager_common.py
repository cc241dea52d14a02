"""What the measurements of the DAGER attack share: models, real sentences, updates, scores, files.

Nothing is measured here. Every measurement draws its batches by seed from the train split of a real
data set, lets a client compute its update, and attacks what travelled. Text is scored as in
`fedsim run`: one guess per sentence, special tokens dropped.
"""

import argparse
import ast
import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig

from attacks.dager import Dager
from clients.data import DataSettings, load_corpus
from clients.training import LocalTraining
from fedsim.errors import UnsupportedObservation
from fedsim.files import write_json
from fedsim.lab.intervals import cluster_interval
from fedsim.lab.metrics import Pair, match, sample_metrics
from fedsim.messages import Broadcast, Observation, Parameters, Tokens, Update
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data"
DATASETS = ("cola", "sst2", "rotten_tomatoes")
SPARE = 20  # a batch with D - SPARE distinct prefixes or more is beyond the method (DAGER, fig. 3)
RATES = ("exact_match", "exact_match_but_last")
METRICS = (*RATES, "token_accuracy", "rouge1", "rouge2")
FAILURES = 25  # described one by one in a cell, at most

Cell = dict[str, Any]
Parser = argparse.ArgumentParser
T = TypeVar("T")

# Models


@dataclass(frozen=True)
class Victim:
    """A model and the weights that the server sends."""

    adapter: ModelAdapter
    parameters: Parameters


def victim(spec: ModelSpec) -> Victim:
    """Return the model of ``spec`` at its first weights."""
    adapter = load_adapter(spec)
    return Victim(adapter, adapter.initial_parameters())


def gpt2(**fields: Any) -> Victim:
    """Return GPT-2 at its real size with its own tokenizer and random weights."""
    need_data()
    tokenizer = str(DATA / "tokenizers" / "gpt2")
    return victim(ModelSpec(name="builtin:gpt2", tokenizer=tokenizer, weights="random", **fields))


def stories(**fields: Any) -> Victim:
    """Return the trained LLaMA of 260,032 parameters: width 64, 512 tokens."""
    need_data()
    return victim(ModelSpec(name=str(DATA / "models" / "stories260K-hf"), **fields))


def random_llama(
    folder: str | Path, *, width: int = 1024, layers: int = 4, **fields: Any
) -> Victim:
    """Return a LLaMA with 32,000 tokens and random weights; its config is written to ``folder``."""
    need_data()
    LlamaConfig(
        vocab_size=32_000,
        max_position_embeddings=512,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        bos_token_id=1,
        eos_token_id=2,
    ).save_pretrained(folder)
    tokenizer = str(DATA / "tokenizers" / "llama")
    return victim(ModelSpec(name=str(folder), tokenizer=tokenizer, weights="random", **fields))


def with_head(who: Victim, deviation: float) -> Victim:
    """Return the classifier with its head drawn anew from N(0, deviation^2).

    The paper's code draws it with 1e-3, which makes gradients 20 times smaller than the families'
    own 0.02 does: figures that hang on noise or rounding compare with the paper's only then.
    """
    name = "score.weight"
    weight = who.parameters[name]
    drawn = deviation * torch.randn(weight.shape, generator=stream(1, "head"))
    return Victim(who.adapter, {**who.parameters, name: drawn})


# Sentences


def need_data() -> None:
    """Leave with one clear line where the real data is not beside the checkout."""
    if not DATA.is_dir():
        raise SystemExit(f"nothing to measure: {DATA.name} is not beside the checkout")


@dataclass(frozen=True)
class Pool:
    """The different token sequences of a train split, in its order, with their labels."""

    name: str
    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    def only(self, keep: Callable[[Tokens], bool]) -> "Pool":
        """Return the sentences that ``keep`` accepts."""
        rows = [row for row, tokens in enumerate(self.examples.sequences) if keep(tokens)]
        return Pool(self.name, self.examples.take(rows))

    def draw(self, size: int, seed: int, index: int) -> Examples:
        """Return batch ``index`` of ``size`` sentences: no token sequence twice."""
        if size > len(self):
            raise SystemExit(f"{self.name} has only {len(self)} sentences for a batch of {size}")
        generator = stream(seed, "batch", self.name, size, index)
        return self.examples.take(torch.randperm(len(self), generator=generator)[:size].tolist())


def pool(adapter: ModelAdapter, name: str) -> Pool:
    """Return the sentences of ``name`` that carry text and have a loss, each once."""
    need_data()
    settings = DataSettings(name=name, path=str(DATA / "datasets" / name), evaluate=0)
    train = load_corpus(settings, seed=1).train
    encoded = adapter.tokenizer(list(train["text"]))["input_ids"]
    shortest = 2 if adapter.spec.task == "causal-lm" else 1
    labels: dict[Tokens, int | None] = {}
    for ids, label in zip(encoded, train["label"], strict=True):
        if len(plain(adapter, ids)) >= shortest:
            labels.setdefault(tuple(ids), int(label))
    return Pool(name, Examples(sequences=tuple(labels), labels=tuple(labels.values())))


def plain(adapter: ModelAdapter, tokens: Iterable[int]) -> Tokens:
    """Return ``tokens`` without special ones."""
    return tuple(token for token in tokens if token not in adapter.special)


def prefixes(sequences: Iterable[Tokens]) -> list[int]:
    """Return how many distinct prefixes of 1, 2, ... tokens there are: their sum is rank 1's."""
    distinct = {tokens[: end + 1] for tokens in sequences for end in range(len(tokens))}
    longest = max(map(len, distinct), default=0)
    counts = [0] * longest
    for one in distinct:
        counts[len(one) - 1] += 1
    return counts


# Updates


def client_update(
    who: Victim, examples: Examples, settings: TrainingSettings, generator: torch.Generator
) -> Update:
    """Return what a client sends: its gradient or delta, in the dtype of the wire."""
    tensors, _ = LocalTraining(who.adapter, settings)(who.parameters, examples, generator)
    dtype = getattr(torch, settings.wire_dtype)
    return Update(
        tensors={name: tensor.to("cpu", dtype) for name, tensor in tensors.items()},
        kind="gradient" if settings.algorithm == "fedsgd" else "delta",
        num_examples=len(examples),
    )


def gradient(who: Victim, examples: Examples) -> Update:
    """Return the batch's gradient: what a FedSGD client sends."""
    return client_update(who, examples, TrainingSettings(), torch.Generator())


def observation(who: Victim, update: Update) -> Observation:
    """Return what the attack sees."""
    broadcast = Broadcast(round=1, parameters=who.parameters)
    return Observation(model=who.adapter, broadcast=broadcast, update=update)


# One attack


@dataclass(frozen=True)
class Timed:
    """What a call took; memory is what the process grew by at its peak, in GB.

    ``cpu_seconds`` are summed over threads: well below threads x ``seconds``, the machine was busy
    or the work ran on one thread.
    """

    seconds: float
    cpu_seconds: float
    peak_gb: float


def timed(work: Callable[[], T]) -> tuple[T, Timed]:
    """Run ``work``; return its result, its wall time and its peak memory beyond what was there."""
    before = _start_peak()
    started, processor = time.perf_counter(), time.process_time()
    result = work()
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    grown = max(0.0, _peak() - before)
    return result, Timed(round(seconds, 3), round(processor, 3), round(grown, 3))


def _start_peak() -> float:
    """Return the resident memory in GB, and begin its high-water mark anew where that can be.

    Freed memory that the C library kept is given back first: work that moved into it unseen would
    be missed. Without Linux' /proc the mark is the process' own, and only growth beyond it shows.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return _peak()
    return _status("VmRSS")


def _peak() -> float:
    """Return the high-water mark of resident memory, in GB."""
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise OSError(f"no {key} in /proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One update, attacked and scored."""

    tokens: int  # n: all tokens of the batch, special ones included
    prefixes: int  # distinct ones: what must stay below D
    longest: int  # T
    samples: list[dict[str, float]]  # metrics, one for each sentence
    failures: list[Cell]  # sentences not recovered exactly
    surplus: int  # guesses that stand for no sentence
    cost: Timed
    diagnostics: Mapping[str, bool | int | float] = field(default_factory=dict)
    error: str = ""  # why the attack refused

    @property
    def exact(self) -> int:
        """How many sentences were recovered exactly."""
        return len(self.samples) - len(self.failures)


def attempt(
    who: Victim, update: Update, examples: Examples, *, seed: int, attack: Dager | None = None
) -> Attempt:
    """Attack ``update`` and score the guess against ``examples``."""
    attack = attack or Dager()
    seen = observation(who, update)
    generator = stream(seed, "attack")
    error = ""

    def run() -> tuple[tuple[Tokens, ...], Mapping[str, bool | int | float]]:
        nonlocal error
        try:
            guess = attack.reconstruct(seen, generator)
        except UnsupportedObservation as reason:
            error = str(reason)
            return (), {}
        return guess.sequences, guess.diagnostics

    (sequences, diagnostics), cost = timed(run)
    samples, failures, surplus = score(who.adapter, examples.sequences, sequences)
    return Attempt(
        tokens=sum(map(len, examples.sequences)),
        prefixes=sum(prefixes(examples.sequences)),
        longest=max(map(len, examples.sequences)),
        samples=samples,
        failures=failures,
        surplus=surplus,
        cost=cost,
        diagnostics=dict(diagnostics),
        error=error,
    )


def score(
    adapter: ModelAdapter, truths: Sequence[Tokens], guesses: Sequence[Tokens]
) -> tuple[list[dict[str, float]], list[Cell], int]:
    """Return the metrics of each sentence, those not exact, and how many guesses are left over."""
    wanted = [plain(adapter, tokens) for tokens in truths]
    offered = [found for tokens in guesses if (found := plain(adapter, tokens))]
    chosen = match(wanted, offered)
    samples: list[dict[str, float]] = []
    failures: list[Cell] = []
    for truth, place in zip(wanted, chosen, strict=True):
        guess = () if place is None else offered[place]
        pair = Pair(
            truth=truth,
            guess=guess,
            truth_text=str(adapter.tokenizer.decode(list(truth))),
            guess_text=str(adapter.tokenizer.decode(list(guess))),
        )
        metrics = sample_metrics(pair, but_last=adapter.spec.task == "causal-lm")
        samples.append(metrics)
        if not metrics.get("exact_match_but_last", metrics["exact_match"]):
            failures.append(
                {
                    "tokens": len(truth),
                    "guessed_tokens": len(guess),
                    "token_accuracy": round(metrics["token_accuracy"], 3),
                    "prefix_of_another": any(
                        other != truth and other[: len(truth)] == truth for other in wanted
                    ),
                }
            )
    surplus = len(offered) - sum(place is not None for place in chosen)
    return samples, failures, surplus


# Many attacks


def run_batches(
    who: Victim,
    batches: Iterable[Examples],
    make: Callable[[int, Examples], Update],
    *,
    seed: int,
    label: str = "",
) -> list[Attempt]:
    """Attack the update of each batch; ``make`` computes the update of batch number i."""
    attempts = []
    for index, examples in enumerate(batches):
        one = attempt(who, make(index, examples), examples, seed=seed)
        attempts.append(one)
        print(
            f"  {label} batch {index}: {one.exact}/{len(one.samples)} exact, n={one.tokens}, "
            f"{one.prefixes} prefixes, {one.cost.seconds:.1f} s {one.error}",
            flush=True,
        )
    return attempts


def split(attempts: Iterable[Attempt], width: int) -> tuple[list[Attempt], list[Attempt]]:
    """Return the attempts within reach of the method, and those with too many prefixes."""
    limit = width - SPARE
    parts: tuple[list[Attempt], list[Attempt]] = ([], [])
    for one in attempts:
        parts[one.prefixes >= limit].append(one)
    return parts


def summary(attempts: Sequence[Attempt], width: int, *, seed: int = 1) -> Cell:
    """Return the figures of a cell; {} for no attempts."""
    if not attempts:
        return {}
    metrics = {
        name: vars(
            cluster_interval(
                [[sample[name] for sample in one.samples] for one in attempts],
                seed=seed,
                fraction=name in RATES,
            )
        )
        for name in METRICS
        if name in attempts[0].samples[0]
    }
    failures = [
        {"batch": place, "n": one.tokens, "prefixes": one.prefixes, **what}
        for place, one in enumerate(attempts)
        for what in one.failures
    ]
    sentences = sum(len(one.samples) for one in attempts)
    return {
        "batches": len(attempts),
        "sentences": sentences,
        "exact": sentences - len(failures),
        "surplus_guesses": sum(one.surplus for one in attempts),
        "metrics": metrics,
        "d": width,
        "n": _middle([one.tokens for one in attempts]),
        "distinct_prefixes": _middle([one.prefixes for one in attempts]),
        "longest": _middle([one.longest for one in attempts]),
        "seconds": _middle([one.cost.seconds for one in attempts]),
        "cpu_seconds": _middle([one.cost.cpu_seconds for one in attempts]),
        "peak_gb_beyond_model": max(one.cost.peak_gb for one in attempts),
        "diagnostics": _diagnostics(attempts),
        "unsupported": sorted({one.error for one in attempts if one.error}),
        "failures": len(failures),
        "first_failures": failures[:FAILURES],
    }


def _middle(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "max": max(values)}


def _diagnostics(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return each diagnostic's median and maximum; of a truth value how often it held."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(key for one in attempts for key in one.diagnostics):
        values = [one.diagnostics[name] for one in attempts if name in one.diagnostics]
        truths = all(isinstance(value, bool) for value in values)
        found[name] = {"times": sum(values)} if truths else _middle(values)
    return found


def share(cell: Cell, name: str = "exact_match") -> float:
    """Return a metric's mean in a cell, or that without the last token where there is such."""
    metrics = cell["metrics"]
    return float(metrics.get(f"{name}_but_last", metrics[name])["mean"])


def average(attempts: Sequence[Attempt], metric: str) -> float:
    """Return a metric's mean over all sentences."""
    return fmean(sample[metric] for one in attempts for sample in one.samples)


# Files


@dataclass
class Results:
    """A result file, written after every cell: a killed run keeps what it has.

    A cell is skipped when it was measured with the same settings on the same code.
    """

    path: Path
    head: Cell
    keep: bool = False  # skip cells that were measured on other code, too
    cells: dict[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        code()  # now: the files may be edited while the measurement runs
        if self.path.exists():
            self.cells = json.loads(self.path.read_text(encoding="utf-8")).get("cells", {})

    def known(self, name: str, settings: Cell) -> Cell | None:
        """Return the finished cell called ``name``, if it need not be measured again."""
        cell = self.cells.get(name)
        if cell is None or cell["settings"] != settings:
            return None
        return cell if self.keep or cell["code"] == code() else None

    def cell(self, name: str, settings: Cell, measure: Callable[[], Cell]) -> Cell:
        """Return the cell called ``name``: as it stands in the file, or measured now."""
        cell = self.known(name, settings)
        if cell is not None:
            print(f"{name}: already there", flush=True)
            return cell
        print(f"{name}: measuring", flush=True)
        return self.add(name, settings, measure())

    def add(self, name: str, settings: Cell, figures: Cell) -> Cell:
        """Store a cell and write the file."""
        self.cells[name] = {"settings": settings, "code": code(), **figures}
        self.write()
        return self.cells[name]

    def write(self, **more: Any) -> None:
        """Write the file, all or nothing."""
        write_json(self.path, {**self.head, **more, "cells": self.cells})


@functools.cache
def code() -> str:
    """Return a fingerprint of the attack's code as the run found it, comments aside.

    It covers ``attacks.dager`` and all of ``attacks`` and ``fedsim.models`` that it imports.
    """
    seen, queue = dict[str, str](), ["attacks.dager"]
    while queue:
        module = queue.pop()
        found = importlib.util.find_spec(module)
        if module in seen or module == "attacks" or found is None or found.origin is None:
            continue
        path = Path(found.origin)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module.startswith(("attacks", "fedsim.models")):
                    queue.append(node.module)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                node.body = [one for one in node.body if not _is_docstring(one)]
        seen[module] = ast.dump(tree)
    text = "\n".join(f"{name}\n{seen[name]}" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def arguments(description: str) -> Parser:
    """Return a parser with the options that every measurement has."""
    _wait_asleep()
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the result file; default: results/<name>.json")
    parser.add_argument("--seed", type=int, default=1, help="of the batches")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument(
        "--keep", action="store_true", help="keep finished cells though the code has changed"
    )
    return parser


def _wait_asleep() -> None:
    """Begin the process anew with OpenMP threads that sleep while they wait.

    By default they spin, and where other work has a core, one second of an attack becomes twenty:
    measured with 2 threads on 2 busy cores, 1.3 s against 2 to 27 s. OpenMP reads it at its start.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, sys.orig_argv)


def start(options: argparse.Namespace, name: str, claim: str, **more: Any) -> Results:
    """Set torch's threads and return the result file called ``name``."""
    need_data()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # a classifier's head is always new
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    head = {
        "claim": claim,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work, no GPU",
        "threads": options.threads,
        "threads_wait": os.environ["OMP_WAIT_POLICY"].lower(),
        "load_at_start": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "dtype": "float32",
        "seed": options.seed,
        **more,
    }
    path = options.out or HERE / "results" / f"{name}.json"
    return Results(path=path, head=head, keep=options.keep)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def singular_values(tensor: Tensor) -> Tensor:
    """Return the singular values of a matrix, largest first, in float64."""
    values: Tensor = torch.linalg.svdvals(tensor.double())
    return values
