"""Federated rounds with canaries in them: what the tap saw along each one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from clients import ClientSettings, build_client_app
from clients.holdings import Side, client_examples
from clients.update import client_update
from defenses import DPSGD
from defenses.base import Memory, Private
from fedsim.errors import BadInput
from fedsim.lab.canaries.planted import NAME, Planted, Saturated, canary_tokens
from fedsim.lab.engines.inline import run_inline
from fedsim.lab.run.audit import stop_where_a_defense_failed
from fedsim.lab.run.prepare import Experiment
from fedsim.lab.run.secrecy import clients_secret
from fedsim.lab.run.settings import client_settings, resources, server_settings
from fedsim.lab.store.run import RunDirectory
from fedsim.messages import Broadcast
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings
from fedsim.vault.reader import VaultReader
from fedsim.wire import read_broadcast, read_update
from server import Exchange, Progress, build_server_app

TEXTS = 8  # of its own that a client trains on beside its canaries


@dataclass(kw_only=True)
class Traces:
    """What the tap saw of the canaries, and what their clients remember."""

    inside: list[bool]  # by canary
    totals: list[float]  # by canary, over the rounds
    present: list[float] = field(default_factory=list)  # by round: of canaries in the batch
    absent: list[float] = field(default_factory=list)  # by round: of those that were out
    steps: int = 1  # local ones that a round's number is the sum of
    memories: list[Memory] = field(default_factory=list)  # of the audited defense, by client


def canary_examples(
    experiment: Experiment, run: RunDirectory, claim: Private, canaries: int
) -> Traces:
    """Run the rounds with canary examples shared out among the clients, each in by a fair coin.

    The sampling rate is the experiment's; so are clients, rounds and participation.
    """
    count = experiment.config.federation.clients
    each = math.ceil(canaries / count)
    inside = _coins(experiment, each * count)
    planted = Planted(experiment.adapter.spec, experiment.adapter.device, inside)
    settings = _settings(experiment, run, claim)
    sides = {client: _side(planted, settings, client, each) for client in range(count)}
    held = len(client_examples(settings, 0))
    rate = min(settings.batch_size or held, held) / held
    least = min(len(side.examples) for side in sides.values())
    size = 0 if rate == 1.0 else max(1, round(rate * least))
    settings = replace(settings, batch_size=size)
    traces = Traces(inside=inside, totals=[0.0] * len(inside))
    traces.steps = _steps(experiment.training, size or least, least)
    _federate(experiment, run, settings, planted, sides, traces)
    after = experiment.config.federation.rounds + 1
    traces.memories = [settings.memory.before(client, after, 1)[0] for client in range(count)]
    took = [place for place in range(len(inside)) if traces.memories[place // each].values]
    traces.inside = [inside[place] for place in took]  # of clients that took part
    traces.totals = [traces.totals[place] for place in took]
    return traces


def _side(planted: Planted, settings: ClientSettings, client: int, each: int) -> Side:
    """Return a client with a few texts of its own and its canaries."""
    own = client_examples(settings, client)
    texts = own.take(list(range(min(TEXTS, len(own)))))
    places = range(client * each, (client + 1) * each)
    tokens = tuple(canary_tokens(planted.adapter, place) for place in places)
    labels = (*texts.labels, *[0] * each)
    examples = Examples(sequences=texts.sequences + tokens, labels=labels)
    return Side(planted, examples)  # type: ignore[arg-type]


def _steps(training: TrainingSettings, expected: int, held: int) -> int:
    """Return how many local steps a round's trace is the sum of."""
    if training.algorithm == "fedsgd":
        return 1
    if expected < held or training.mini_batch_size < held or training.optimizer != "sgd":
        raise BadInput(
            "training: an audit of FedAvg wants plain steps that take every example: sgd, "
            f"batch_size 0, mini_batch_size of at least {held}; got {training.optimizer}, "
            f"mini_batch_size {training.mini_batch_size}"
        )
    return training.steps(held)


def _federate(
    experiment: Experiment,
    run: RunDirectory,
    settings: ClientSettings,
    planted: Planted,
    sides: dict[int, Side],
    traces: Traces,
) -> None:
    """Run Flower's rounds with a tap that adds what it sees to ``traces``."""
    vault, each = VaultReader(run.vault), len(traces.inside) // len(sides)
    sign = 1.0 if experiment.training.algorithm == "fedsgd" else -1.0

    def watch(exchanges: Sequence[Exchange]) -> None:
        stop_where_a_defense_failed(run, exchanges)
        for exchange in exchanges:
            if exchange.received is None or exchange.client is None:
                continue
            trace = read_update(
                exchange.received, read_broadcast(exchange.sent, exchange.round)
            ).tensors[NAME]
            truth = vault.truth(exchange.round, exchange.client)
            there = set(truth.sequences) if truth else set()
            for place in range(exchange.client * each, (exchange.client + 1) * each):
                value = sign * float(trace[0, place].item())
                traces.totals[place] += value
                if not traces.inside[place]:
                    traces.absent.append(value)
                elif canary_tokens(planted.adapter, place) in there:
                    traces.present.append(value)

    start = Progress(round=0, parameters=planted.parameters())
    # The claim is audited alone: a server with each update, which is what it is about.
    usual = server_settings(experiment.config, experiment.training, experiment.defenses)
    alone = replace(usual, secure_sum=False, central=None)
    server = build_server_app(alone, start, [watch], lambda _: None)
    client = build_client_app(settings, lambda _, number: sides[number])
    run_inline(server, client, len(sides), resources(experiment.config))


def canary_clients(
    experiment: Experiment, run: RunDirectory, claim: Private, canaries: int
) -> Traces:
    """Have each canary be a client whose update is one saturated entry, or its opposite.

    What reaches the claim is the canary whatever was trained, so the weights stay as they are.
    """
    inside = _coins(experiment, canaries)
    parameters = experiment.adapter.initial_parameters()
    entry = max(parameters, key=lambda name: parameters[name].numel())
    settings = _settings(experiment, run, claim)
    training, rounds = experiment.training, experiment.config.federation.rounds
    traces = Traces(inside=inside, totals=[0.0] * canaries)
    for round_ in range(1, rounds + 1):
        sent = Broadcast(round=round_, parameters=parameters, config=training.as_config())
        for canary, in_ in enumerate(inside):
            own = client_examples(settings, canary % settings.clients)
            side = Side(experiment.adapter, own.take([0]))
            planted = (Saturated(entry=entry, inside=in_), claim)
            mine = replace(settings, defenses=planted, batch_size=1)
            update = client_update(mine, canary, sent, side)
            value = float(update.tensors[entry].flatten()[0].item())
            traces.totals[canary] += value
            (traces.present if in_ else traces.absent).append(value)
    traces.memories = [
        settings.memory.before(canary, rounds + 1, 2)[1] for canary in range(canaries)
    ]
    return traces


def _coins(experiment: Experiment, count: int) -> list[bool]:
    coin = stream(experiment.config.seed, "audit", "coins")
    return [bool(heads) for heads in (torch.rand(count, generator=coin) < 0.5).tolist()]


def _settings(experiment: Experiment, run: RunDirectory, claim: Private) -> ClientSettings:
    adapter = experiment.adapter
    both = zip(experiment.config.defense, experiment.defenses, strict=True)
    alone = [section for section, defense in both if defense == claim]  # noise hangs on the config
    config = experiment.config.model_copy(update={"defense": alone})
    if isinstance(claim, DPSGD):  # the canaries' rate is the run's but for rounding
        claim = replace(claim, budget=None)
    secret = clients_secret(run.vault, [claim], begun=False)
    parameters = adapter.initial_parameters()
    made = client_settings(config, adapter, [claim], run.vault, parameters, secret)
    return replace(made, timeout=0.0)  # what the canaries are planted in is in this process
