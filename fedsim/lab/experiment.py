"""The main job: federated rounds, a curious server, attacks, scores."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clients import ClientSettings, build_client_app
from clients.training import best_threads
from fedsim.errors import RunFailed
from fedsim.files import write_json, write_lines
from fedsim.lab.attacking import Runner, in_force
from fedsim.lab.display import Display
from fedsim.lab.engines import ENGINES, Resources
from fedsim.lab.prepare import Experiment, server_settings
from fedsim.lab.rundir import RunDirectory, checksum
from fedsim.lab.scoring import Scored, Scorer
from fedsim.lab.utility import METRICS, utility
from fedsim.messages import Broadcast, Update
from fedsim.models import ModelAdapter, load_adapter
from fedsim.vault.reader import VaultReader
from fedsim.wire import read_broadcast, read_update
from server import Capture, Exchange, Progress, build_server_app
from server.tap import last_line


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
        """Note who answered, then attack what they sent (a tap's hook)."""
        answered = [one for one in exchanges if one.received is not None]
        self.round = {
            "clients": [one.client for one in answered],
            "failures": [
                {"client": one.client, "error": one.error} for one in exchanges if one.error
            ],
        }
        seen: list[tuple[int, Broadcast, Update]] = []
        for one in answered:
            assert one.received is not None and one.client is not None
            wanted = any(a.wants(one.round, one.client) for a in self.experiment.planned)
            if wanted:
                sent = seen[0][1] if seen else read_broadcast(one.sent, one.round)
                seen.append((one.client, sent, read_update(one.received, sent)))
        self.runner.attack_round(seen)

    def after_round(self, progress: Progress) -> None:
        """Measure the utility, note the round, save a checkpoint."""
        self.display.step(f"round {progress.round}: evaluating")
        held_out, adapter = self.experiment.held_out, self.experiment.adapter
        done = {row["round"] for row in self.run.rows("rounds.jsonl")}
        if not all(bool(one.isfinite().all()) for one in progress.parameters.values()):
            raise RunFailed(
                f"round {progress.round}: the weights are not finite, training diverged; lower "
                "training.learning_rate"
            )
        self.checksum = checksum(progress.parameters)
        if progress.round in done:  # where a resumed run begins
            return
        measured = utility(adapter, progress.parameters, held_out) if len(held_out) else None
        row = {
            "round": progress.round,
            "utility": measured,
            "checksum": self.checksum,
            "seconds": round(time.perf_counter() - self.started, 3),
            **self.round,
        }
        self.run.append("rounds.jsonl", row)
        self.run.save(progress)  # last: a round without a checkpoint is run again, and noted again
        self.started, self.round = time.perf_counter(), {}
        name = METRICS[adapter.spec.task]
        shown = "" if measured is None else f", {name} {measured:.3f}"
        for one in row.get("failures", []):
            reason = last_line(one["error"])
            self.display.say(f"round {progress.round}: client {one['client']} failed: {reason}")
        if progress.round:
            rounds = self.experiment.config.federation.rounds
            self.display.say(f"round {progress.round}/{rounds} done{shown}")


def run_experiment(
    experiment: Experiment, run: RunDirectory, display: Display, *, quick: bool = False
) -> tuple[dict[str, Any], list[Scored]]:
    """Run what is left of ``experiment`` in ``run``; return its summary and the scores.

    Args:
        experiment: what to run.
        run: a directory that holds the config, and perhaps rounds that are done.
        display: shows progress.
        quick: skip the controls; every verdict is then ``inconclusive``.
    """
    config, adapter = experiment.config, experiment.adapter
    start = run.latest()
    if start is None:
        display.step("building the model")
        start = Progress(round=0, parameters=adapter.initial_parameters())
        run.forget_after(-1)
    else:
        run.forget_after(start.round)
    write_lines(run.vault / "pool.jsonl", [{"tokens": list(one)} for one in experiment.pool])
    runner = Runner(
        planned=experiment.planned,
        adapter=load_adapter(adapter.spec).to(adapter.device),  # a workspace no client shares
        seed=config.seed,
        vault=VaultReader(run.vault),
        controls=not quick,
        note=lambda row: run.append("reconstructions.jsonl", row),
        display=display,
        defenses=in_force([one.name for one in config.defense], experiment.defenses),
    )
    recorder = Recorder(experiment=experiment, run=run, runner=runner, display=display)
    if start.round < config.federation.rounds:
        _run_rounds(experiment, run, start, recorder)
    return summarize(experiment, run, quick=quick)


def _run_rounds(
    experiment: Experiment, run: RunDirectory, start: Progress, recorder: Recorder
) -> None:
    config, adapter = experiment.config, experiment.adapter
    federation = config.federation
    hooks = [Capture(run.captures, model=adapter.spec.as_dict())] if federation.capture else []
    server = build_server_app(
        server_settings(config), start, [*hooks, recorder.watch], recorder.after_round
    )
    settings = ClientSettings(
        model=adapter.spec,
        data=experiment.data,
        max_length=config.data.max_length,
        clients=federation.clients,
        batch_size=config.training.batch_size,
        seed=config.seed,
        vault=run.vault.absolute(),
        defenses=tuple(experiment.defenses),
        threads=best_threads(start.parameters),
        device=str(adapter.device),
    )
    resources = Resources(cpus=federation.cpus_per_client, gpus=federation.gpus_per_client)
    ENGINES[federation.engine](server, build_client_app(settings), federation.clients, resources)
    done = [row["round"] for row in run.rows("rounds.jsonl")]
    if max(done, default=0) < federation.rounds:  # Flower may return as if all were well
        raise RunFailed(f"the engine stopped after round {max(done, default=0)}")


def summarize(
    experiment: Experiment, run: RunDirectory, *, quick: bool
) -> tuple[dict[str, Any], list[Scored]]:
    """Score what is noted in ``run``, write its summary.json and return both."""
    config, adapter = experiment.config, experiment.adapter
    scorer = Scorer(
        adapter=adapter,
        vault=VaultReader(run.vault),
        pool=experiment.pool,
        controls=not quick,
        seed=config.seed,
    )
    scores = scorer.score(run.rows("reconstructions.jsonl"))
    leakage, verdicts = scorer.leakage(scores)
    rounds = run.rows("rounds.jsonl")
    guarantees = [one.guarantee() for one in experiment.defenses]
    summary: dict[str, Any] = {
        "schema": 1,
        "name": config.name,
        "seed": config.seed,
        "engine": config.federation.engine,
        "rounds": config.federation.rounds,
        "seconds": round(sum(row["seconds"] for row in rounds), 3),
        "utility": _utility(adapter, rounds),
        "guarantee": next((vars(one) for one in guarantees if one), None),
        "attacks": [scorer.entry(one) for one in scores],
        "leakage": leakage,
        "verdicts": verdicts,
        "failures": [
            {"round": row["round"], "client": one["client"], "error": last_line(one["error"])}
            for row in rounds
            for one in row.get("failures", [])
        ],
        "checksum": rounds[-1]["checksum"],
        "notes": scorer.notes(scores),
    }
    write_json(run.root / "summary.json", summary)
    return summary, scores


def _utility(adapter: ModelAdapter, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    values = [row["utility"] for row in rounds]
    if any(value is None for value in values):
        return None
    return {
        "metric": METRICS[adapter.spec.task],
        "before": values[0],
        "after": values[-1],
        "per_round": values[1:],
    }
