"""Attacks captures: those of a run, or of any Flower project that was tapped."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defenses import defense_table
from fedsim.captures import (
    Captured,
    CapturePath,
    captured_clients,
    captured_node,
    find_captures,
    is_masked,
    noted,
    read_capture,
)
from fedsim.effects import Effect
from fedsim.errors import BadInput, MalformedFile, MalformedMessage
from fedsim.lab.config import (
    AttackSection,
    Config,
    ModelSection,
    apply,
    check,
    checked,
    read_toml,
)
from fedsim.lab.display import Display
from fedsim.lab.run.attacking import Runner, in_force
from fedsim.lab.run.candidates import Reserve, public_reserve
from fedsim.lab.run.foreign import Fitted, fit
from fedsim.lab.run.looks import hiding
from fedsim.lab.run.named import captured_model, given_model
from fedsim.lab.run.planned import PlannedAttack, judged_run, plan
from fedsim.lab.run.said import data_said, taken
from fedsim.lab.run.secrecy import caveats
from fedsim.lab.run.truths import miscount, public_pool, read_truths
from fedsim.lab.scoring.scored import Scored, entry_of, samples_of
from fedsim.lab.scoring.scorer import Scorer
from fedsim.lab.store import layout
from fedsim.lab.store.attack import begin_attack, note_attack
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import Summary, read_summary
from fedsim.models import ModelAdapter, load_adapter
from fedsim.plugins import make
from fedsim.types import Tokens
from fedsim.vault.reader import Truths, VaultReader


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Captures and what is to be run on them, checked."""

    captures: Sequence[CapturePath]
    adapter: ModelAdapter
    planned: PlannedAttack
    foreign: Fitted | None  # whose captures need reading; None: fedsim's own app made them
    truths: Truths | None
    locked: str  # why there is no truth, although there is a vault
    pool: Sequence[Tokens]
    seed: int
    out: Path
    defenses: tuple[Effect, ...] | None  # of those in force in the run; None: nothing tells
    run: Path  # whose captures these are
    reserve: Reserve | None  # of texts that nobody trained on, where the attack is asked
    config: Config | None  # the run's, with this attack alone; None: it is no finished run

    def read(self, where: CapturePath) -> Captured:
        """Return a capture, in the names of the model."""
        captured = read_capture(where)
        return captured if self.foreign is None else self.foreign.read(captured)

    def notes(self, first: Captured) -> Sequence[str]:
        """Return what a reader must know of captures that are somebody else's, by the first."""
        if self.foreign is None:
            return []
        miscounted = [] if self.truths is None else miscount(first, self.truths)
        return [*self.foreign.notes, *miscounted]

    def unsure(self, first: Captured) -> str:
        """Return why silence says nothing, however well the positive control did; "": it does."""
        doubts = [] if self.foreign is None else self.foreign.doubts(first)
        return f"{'; '.join(doubts)}: so it proves nothing" if doubts else ""


def prepare_replay(
    captures: Path,
    attack: str,
    overrides: Sequence[str],
    out: Path | None,
    truth: Path | None = None,
    public: Path | None = None,
) -> Replay:
    """Check what ``fedsim attack`` was asked for.

    Args:
        captures: a captures directory, or a run that holds one.
        attack: the attack's name.
        overrides: the attack's parameters as ``key=value``; also ``rounds``, ``clients``,
            ``knowledge``, ``seed``, and ``model.<key>`` and ``training.<key>``, which replace what
            the captures say.
        out: where the results go; default: ``attack-<name>-<hash of its settings>`` in the run.
        truth: a file of what the clients trained on; default: the run's vault.
        public: a file of texts that none of them did, for attacks that are asked about candidates.

    Raises:
        BadInput: no captures, no model, or an attack that does not fit.
    """
    tree: dict[str, Any] = {}
    for override in overrides:
        apply(tree, override)
    seed, model = tree.pop("seed", None), tree.pop("model", {})
    training, table = taken(tree, "training"), taken(tree, "data")
    data = data_said(table)
    if "name" in tree:
        raise BadInput(f"name: the attack is named by --attack, got also name={tree['name']!r}")
    if seed is not None and (type(seed) is not int or seed < 0):
        raise BadInput(f"seed: wanted an integer, 0 or more, got {seed!r}")
    section = checked(AttackSection, {"name": attack, **tree})
    planned = plan([section])[0]
    every = find_captures(captures)
    wanted = [
        capture for capture in every if planned.wants(capture.round, captured_clients(capture))
    ]
    if not wanted:
        raise BadInput(
            f"captures: {str(captures)!r} holds none of the rounds and clients asked for"
        )
    wanted = [capture for capture in wanted if not is_masked(capture)]
    if not wanted:
        raise BadInput(
            f"captures: {str(captures)!r} holds masked updates alone: under secure aggregation "
            "only the sum of a round can be read"
        )
    run = wanted[0].directory.parents[1].parent  # <run>/captures/round=R/client=C
    first = read_capture(wanted[0])
    foreign = None
    if first.model and first.node is None:  # an app of fedsim's own, whose clients are numbered
        if other := [*(f"data.{key}" for key in table), *(f"training.{key}" for key in training)]:
            raise BadInput(f"{other[0]}: these captures say themselves how their clients train")
        adapter = load_adapter(captured_model(first, model))
    else:
        said = given_model(first.model, model)
        foreign = fit(first, said, training, data.num_examples)
        adapter, first = foreign.adapter, foreign.read(first)
    planned.attack.check(adapter)
    try:
        adapter.load(first.broadcast.parameters)
    except MalformedMessage as error:
        raise BadInput(f"model.name: the captures are of another model: {error}") from error
    config = check(read_toml(run / layout.CONFIG)) if layout.is_run(run) else None
    if seed is None:  # that of the run, so that a replay guesses as the run did
        seed = config.seed if config else Config.model_fields["seed"].default
    directory = RunDirectory(run)
    vault, locked = _vault(directory.vault)
    truths: Truths | None = vault
    pool = directory.pool() if vault else []
    if truth is not None:
        length = data.max_length or adapter.positions
        truths, locked = read_truths(truth, adapter, _nodes(every), length), ""
        pool = public_pool(adapter, length)
    reserve = None
    if planned.asks:
        length = config.data.max_length if config else data.max_length or adapter.positions
        reserve = public_reserve(public, adapter, config, length, seed)
    elif public is not None:
        raise BadInput(f"--public: {attack} is not asked about candidates; leave it out")
    if out is not None:
        _check_out(out)
    told = [planned.settings, planned.knowledge, seed, model]
    files = [str(path) if path else "" for path in (truth, public)]
    told += [some for some in (training, table, *files) if some]
    text = json.dumps(told, sort_keys=True, default=str)
    name = f"attack-{attack}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Replay(
        captures=wanted,
        adapter=adapter,
        planned=planned,
        foreign=foreign,
        truths=truths,
        locked=locked,
        pool=pool,
        seed=seed,
        out=out or run / name,
        defenses=None if config is None else _defenses(config),
        run=run,
        reserve=reserve,
        config=_as_run(run, section, seed, model),
    )


def _nodes(captures: Sequence[CapturePath]) -> dict[int, int]:
    """Return the clients by Flower's number of their nodes, where captures have it."""
    told = ((captured_node(capture), capture.client) for capture in captures)
    return {node: client for node, client in told if node is not None}


def _vault(root: Path) -> tuple[VaultReader | None, str]:
    """Return the vault, if there is one that can be read, or why it cannot."""
    if not root.is_dir():
        return None, ""
    vault = VaultReader(root)
    try:
        vault.check()
    except MalformedFile:
        raise
    except BadInput as reason:
        return None, f"No truth: {reason}."
    return vault, ""


def _check_out(out: Path) -> None:
    """Raise BadInput where results would replace others than those of an attack."""
    if layout.is_run(out) or layout.is_sweep(out) or (out.exists() and not out.is_dir()):
        raise BadInput(f"--out: {str(out)!r} is a run, a sweep or a file; choose another directory")


def _as_run(
    run: Path, section: AttackSection, seed: int, model: Mapping[str, Any]
) -> Config | None:
    """Return the config with which this attack would have been part of ``run``, if that ended."""
    if not (layout.is_run(run) and layout.is_finished(run)):
        return None
    tree = read_toml(run / layout.CONFIG)
    known = {key: value for key, value in model.items() if key in ModelSection.model_fields}
    return check({**tree, "seed": seed, "model": {**tree["model"], **known},
                  "attack": [section.model_dump()]})  # fmt: skip


def _defenses(config: Config) -> tuple[Effect, ...]:
    """Return the effects of the defenses in force in a run, from its resolved config."""
    known = defense_table()
    return in_force([make("defense", at.name, known, at.parameters) for at in config.defense])


def run_replay(
    replay: Replay, display: Display, *, quick: bool = False
) -> tuple[Summary, list[Scored]]:
    """Attack every capture asked for; return the summary, also a file in ``out``, and scores."""
    out = begin_attack(replay.out)
    runner = Runner(
        planned=[replay.planned],
        adapter=replay.adapter,
        seed=replay.seed,
        vault=replay.truths,
        controls=not quick,
        note=out.note_attempt,
        errors=out.errors,
        display=display,
        defenses=replay.defenses,
        reserve=replay.reserve,
    )
    for round_ in sorted({capture.round for capture in replay.captures}):
        captured = (replay.read(capture) for capture in replay.captures if capture.round == round_)
        runner.attack_round(
            [(update.clients, update.broadcast, update.update) for update in captured]
        )
    first = replay.read(replay.captures[0])
    scorer = Scorer(
        adapter=replay.adapter,
        vault=replay.truths,
        pool=replay.pool,
        controls=not quick,
        seed=replay.seed,
        unsure=replay.unsure(first),
        looks="; ".join(hiding(first, replay.adapter)),
    )
    scores = scorer.score(out.attempts())
    leakage, verdicts = scorer.leakage(scores)
    promised, locked = _guarantee(replay), [replay.locked] if replay.locked else []
    told = [*noted(replay.captures[0].directory.parents[1]), *replay.notes(first)]
    summary = Summary(
        schema=1,
        name=replay.out.name,
        seed=replay.seed,
        guarantee=promised,
        attacks=[entry_of(scored) for scored in scores],
        leakage=leakage,
        verdicts=verdicts,
        verdict=judged_run(
            [replay.planned], verdicts, replay.adapter, defended=bool(replay.defenses)
        ),
        notes=[*scorer.notes(scores), *locked, *told, *caveats(promised)],
    )
    out.finish(summary, samples_of(scores))
    if replay.config is not None:
        note_attack(replay.out, replay.run, replay.config)
    return summary, scores


def _guarantee(replay: Replay) -> dict[str, Any] | None:
    """Return what the run's defenses promise: no attack of ours changes that."""
    return None if replay.config is None else read_summary(replay.run).guarantee
