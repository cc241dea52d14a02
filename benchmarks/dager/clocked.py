"""The paper's plain algorithms under a clock: how long each part takes, cut off at a cap."""

import time
from dataclasses import dataclass, field

import torch

from attacks.dager.plain import CHUNK, PlainDager, has_places, projector, span_gradient
from fedsim.messages import Observation
from fedsim.types import Tokens


@dataclass
class Progress:
    """What was done by when: of a search that a cap cut short, all there is."""

    sequences: list[Tokens] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    passing: list[int] = field(default_factory=list)  # tokens that pass algorithm 1, by position
    pairs: list[int] = field(default_factory=list)  # (prefix, token) pairs run, by position
    seconds_svd: float = 0.0
    seconds_tokens: float = 0.0  # algorithm 1
    seconds_search: float = 0.0  # algorithm 2
    least_rate: float = float("inf")  # seconds per token run in the fastest full chunk
    finished: bool = False

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.seconds_svd + self.seconds_tokens + self.seconds_search


@torch.no_grad()
def run_plain(observation: Observation, cap: float = float("inf")) -> Progress:
    """Run the plain attack until it ends, or ``cap`` seconds are over after a chunk of pairs."""
    done, attack, started = Progress(), PlainDager(), time.perf_counter()
    first, second = (projector(span_gradient(observation, layer)) for layer in (0, 1))
    done.ranks = [first[1], second[1]]
    f0, f1 = observation.model.trunks(observation.broadcast.parameters, 0, 1)
    done.seconds_svd = time.perf_counter() - started
    clock = time.perf_counter()
    tokens = list(attack.token_sets(observation.model, f0, first[0]))
    done.passing = [len(ids) for ids in tokens]
    done.seconds_tokens = time.perf_counter() - clock
    clock = began = time.perf_counter()
    start, places = observation.model.prefix, has_places(f0)
    chunks = attack.grow(start, tokens, f1, second[0], done.sequences, places=places)
    for place, size, count in chunks:
        done.pairs += [0] * (place + 1 - len(done.pairs))
        done.pairs[place] += size
        now = time.perf_counter()
        if size == CHUNK:
            done.least_rate = min(done.least_rate, (now - began) / count)
        if now - started > cap:
            break
        began = time.perf_counter()
    else:
        done.finished = True
    done.seconds_search = time.perf_counter() - clock
    return done
