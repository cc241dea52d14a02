"""The main job: federated rounds, a curious server, attacks, scores."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from clients import build_client_app
from fedsim.errors import MalformedFile, RunFailed
from fedsim.finite import all_finite
from fedsim.lab.display import Display
from fedsim.lab.engines import ENGINES
from fedsim.lab.run.attacking import Runner, in_force
from fedsim.lab.run.audit import guarantee, stop_where_a_defense_failed, wire
from fedsim.lab.run.bounds import bounded
from fedsim.lab.run.checks import check_done, check_whole
from fedsim.lab.run.planned import Clients, judged_run
from fedsim.lab.run.prepare import Experiment
from fedsim.lab.run.secrecy import caveats, clients_secret
from fedsim.lab.run.settings import client_settings, resources, server_settings
from fedsim.lab.run.trackers import track
from fedsim.lab.run.utility import METRICS, course, utility, utility_before
from fedsim.lab.scoring.scored import Scored, entry_of, samples_of
from fedsim.lab.scoring.scorer import Scorer
from fedsim.lab.store import layout
from fedsim.lab.store.rounds import RoundRecord
from fedsim.lab.store.run import RunDirectory, checksum
from fedsim.lab.store.summary import Failure, Summary
from fedsim.messages import Broadcast, Update
from fedsim.tap.exchange import last_line
from fedsim.vault.reader import VaultReader
from fedsim.wire import read_broadcast, read_update
from server import Capture, Exchange, Progress, build_server_app


def whose(exchange: Exchange) -> Clients:
    """Return the client whose update was received, or those whose sum it is."""
    if exchange.cohort:
        return exchange.cohort
    assert exchange.client is not None  # the lab's grid knows every node's client
    return (exchange.client,)


@dataclass(kw_only=True)
class Recorder:
    """What the lab does while rounds run: notes, attacks, measures, saves."""

    experiment: Experiment
    run: RunDirectory
    runner: Runner
    display: Display
    round: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    checksum: str = ""

    def watch(self, exchanges: Sequence[Exchange]) -> None:
        """Note who answered, then attack what they sent (a tap's hook).

        Raises:
            RunFailed: nobody answered; a run without updates would look like a safe one.
        """
        stop_where_a_defense_failed(self.run, exchanges)
        answered = [exchange for exchange in exchanges if exchange.received is not None]
        if not answered:
            reason = last_line(exchanges[0].error or "no reason given")
            raise RunFailed(f"round {exchanges[0].round}: no client answered: {reason}")
        self.round = {
            "clients": [client for exchange in answered for client in whose(exchange)],
            "failures": [
                {"client": exchange.client, "error": exchange.error}
                for exchange in exchanges
                if exchange.error
            ],
        }
        received: list[tuple[Clients, Broadcast, Update]] = []
        for exchange in answered:
            assert exchange.received is not None
            wanted = any(
                attack.wants(exchange.round, whose(exchange)) for attack in self.experiment.planned
            )
            if wanted:
                sent = received[0][1] if received else read_broadcast(exchange.sent, exchange.round)
                received.append((whose(exchange), sent, read_update(exchange.received, sent)))
        self.runner.attack_round(received)

    def after_round(self, progress: Progress) -> None:
        """Measure the utility, note the round, save a checkpoint."""
        self.display.step(f"round {progress.round}: evaluating")
        held_out = self.experiment.held_out
        done = {record.round for record in self.run.rounds()}
        if not all_finite(progress.parameters.values()):
            raise RunFailed(
                f"round {progress.round}: the weights are not finite, training diverged; lower "
                "training.learning_rate"
            )
        self.checksum = checksum(progress.parameters)
        if progress.round in done:  # where a resumed run begins
            return
        measured = (self._measured(progress) or None) if len(held_out) else None
        name = METRICS[self.experiment.adapter.spec.task]
        record = RoundRecord(
            round=progress.round,
            utility=None if measured is None else measured[name],
            measures=measured,
            checksum=self.checksum,
            seconds=round(time.perf_counter() - self.started, 3),
            **self.round,
            **({"stayed": True} if progress.stayed else {}),
        )
        self.run.note_round(record)
        if progress.round:  # what a run starts from comes from its seed
            self.run.save(progress)  # last: a round without one is run again, and noted again
        self.started, self.round = time.perf_counter(), {}
        shown = "" if measured is None else f", {name} {measured[name]:.3f}"
        for failure in record.failures:
            reason = last_line(failure.error)
            self.display.say(f"round {progress.round}: client {failure.client} failed: {reason}")
        for note in stays([record]):
            self.display.say(note)
        if progress.round:
            rounds = self.experiment.config.federation.rounds
            self.display.say(f"round {progress.round}/{rounds} done{shown}")

    def _measured(self, progress: Progress) -> dict[str, float]:
        adapter, held_out = self.experiment.adapter, self.experiment.held_out
        if progress.round:
            return utility(adapter, progress.parameters, held_out)
        return utility_before(adapter, progress.parameters, held_out, self.checksum)


def run_experiment(
    experiment: Experiment, run: RunDirectory, display: Display, *, quick: bool = False
) -> tuple[Summary, list[Scored]]:
    """Run what is left of ``experiment`` in ``run``; return its summary and the scores.

    Args:
        experiment: what to run.
        run: a directory that holds the config, and perhaps rounds that are done.
        display: shows progress.
        quick: skip the controls; every verdict is then ``inconclusive``.
    """
    VaultReader(run.vault).check()  # of a run that goes on
    config, adapter = experiment.config, experiment.adapter
    start = run.latest(max((record.round for record in run.rounds()), default=0))
    if start is None:
        display.step("building the model")
        start = Progress(round=0, parameters=adapter.initial_parameters())
    else:
        check_done(start.round, config)
    if start.round < config.federation.rounds:
        run.go_on_after(start.round or -1)
    run.note_pool(experiment.pool)
    runner = attack_runner(experiment, run, display, quick=quick)
    recorder = Recorder(experiment=experiment, run=run, runner=runner, display=display)
    if start.round < config.federation.rounds:
        _run_rounds(experiment, run, start, recorder)
    return summarize(experiment, run, quick=quick)


def attack_runner(
    experiment: Experiment, run: RunDirectory, display: Display, *, quick: bool
) -> Runner:
    """Return what runs the experiment's attacks and notes their guesses in ``run``."""
    return Runner(
        planned=experiment.planned,
        adapter=experiment.adapter,
        seed=experiment.config.seed,
        vault=VaultReader(run.vault),
        controls=not quick,
        note=run.note_attempt,
        errors=run.errors,
        display=display,
        defenses=in_force(experiment.defenses),
        reserve=experiment.reserve,
    )


def _run_rounds(
    experiment: Experiment, run: RunDirectory, start: Progress, recorder: Recorder
) -> None:
    config, adapter = experiment.config, experiment.adapter
    federation = config.federation
    capture = Capture(run.captures, model=adapter.shown().as_dict())
    hooks = [capture.write] if federation.capture else []
    server = build_server_app(
        server_settings(config, experiment.training, experiment.defenses),
        start,
        [*hooks, recorder.watch],
        recorder.after_round,
    )
    secret = clients_secret(run.vault, experiment.defenses, begun=start.round > 0)
    settings = client_settings(
        config, adapter, experiment.defenses, run.vault, start.parameters, secret
    )
    engine, client = ENGINES[federation.engine], build_client_app(settings)
    engine(server, client, federation.clients, resources(config))
    done = [record.round for record in run.rounds()]
    if max(done, default=0) < federation.rounds:  # Flower may return as if all were well
        raise RunFailed(f"the engine stopped after round {max(done, default=0)}")


def summarize(
    experiment: Experiment, run: RunDirectory, *, quick: bool
) -> tuple[Summary, list[Scored]]:
    """Score what is noted in ``run``, write its samples and its summary; return summary, scores."""
    config, adapter = experiment.config, experiment.adapter
    scorer = Scorer(
        adapter=adapter,
        vault=VaultReader(run.vault),
        pool=experiment.pool,
        controls=not quick,
        seed=config.seed,
    )
    started = time.perf_counter()
    rounds, attempts = run.rounds(), run.attempts()
    if len(rounds) != config.federation.rounds + 1:
        raise MalformedFile(
            f"{run.root / layout.ROUNDS}: wanted rounds 0 to {config.federation.rounds}, got "
            f"{len(rounds)} lines"
        )
    check_whole(experiment.planned, rounds, attempts, controls=not quick)
    scores = scorer.score(attempts)
    leakage, verdicts = scorer.leakage(scores)
    scoring = time.perf_counter() - started
    promised = guarantee(experiment, run)
    summary = Summary(
        schema=1,
        name=config.name,
        seed=config.seed,
        engine=config.federation.engine,
        rounds=config.federation.rounds,
        seconds=round(sum(record.seconds for record in rounds), 3),
        scoring={"seconds": round(scoring, 3)},
        utility=course(adapter.spec.task, rounds),
        guarantee=promised,
        wire=wire(experiment, run),
        attacks=bounded([entry_of(scored) for scored in scores], scores, experiment, run),
        leakage=leakage,
        verdicts=verdicts,
        verdict=judged_run(
            experiment.planned, verdicts, adapter, defended=bool(in_force(experiment.defenses))
        ),
        failures=failures(rounds),
        checksum=rounds[-1].checksum,
        notes=[*experiment.notes, *stays(rounds), *scorer.notes(scores), *caveats(promised)],
    )
    run.finish(summary, samples_of(scores))
    if failed := track(run, summary, config.tracker):
        summary = summary.model_copy(update={"notes": [*summary.notes, *failed]})
        run.write_summary(summary)
    return summary, scores


def failures(rounds: Sequence[RoundRecord]) -> list[Failure]:
    """Return the failures of the rounds, each in one line."""
    return [
        Failure(round=record.round, client=failed.client, error=last_line(failed.error))
        for record in rounds
        for failed in record.failures
    ]


def stays(rounds: Sequence[RoundRecord]) -> list[str]:
    """Return a line for each of the rounds that trained nothing."""
    return [
        f"round {record.round}: no aggregate, the weights stay"
        for record in rounds
        if record.stayed
    ]
