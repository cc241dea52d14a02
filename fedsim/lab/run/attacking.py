"""Runs attacks on what the tap saw, live or from captures, and notes what they guessed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from attacks import Attack, attack_table
from clients.training import best_threads, threads
from defenses import Defense
from fedsim.effects import Effect
from fedsim.errors import BadInput, UnsupportedObservation, unknown
from fedsim.lab.config import AttackSection
from fedsim.lab.display import Display
from fedsim.lab.run.controls import own_sequences, own_update
from fedsim.lab.run.faults import keep_traceback, place_of
from fedsim.lab.store.attempts import AttackRecord, Role
from fedsim.messages import Broadcast, Knowledge, Observation, Reconstruction, Update
from fedsim.models import ModelAdapter
from fedsim.plugins import make
from fedsim.rng import stream
from fedsim.types import Tokens
from fedsim.vault.reader import Truth, VaultReader

Clients = tuple[int, ...]
"""Whose update it is: one client, or those whose sum it is under secure aggregation."""


@dataclass(frozen=True, kw_only=True)
class PlannedAttack:
    """One attack of a config: what to run, where, with which knowledge."""

    name: str
    attack: Attack
    rounds: tuple[int, ...]  # () every one
    clients: tuple[int, ...]  # () every one
    knowledge: tuple[str, ...]  # names of Knowledge's fields

    def wants(self, round_: int, clients: Clients) -> bool:
        """Return whether the update of ``clients`` (their sum, if several) is to be attacked."""
        return (not self.rounds or round_ in self.rounds) and (
            not self.clients or not set(clients).isdisjoint(self.clients)
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The attack's hyper-parameters, for the record."""
        return {field.name: getattr(self.attack, field.name) for field in fields(self.attack)}


def plan(sections: Sequence[AttackSection]) -> list[PlannedAttack]:
    """Return the attacks of a config, each checked.

    Raises:
        BadInput: an unknown attack, parameter or kind of knowledge, or a value out of range.
    """
    known = attack_table()
    planned: list[PlannedAttack] = []
    for section in sections:
        attack = make("attack", section.name, known, section.parameters)
        again = sum(other.attack.__class__ is attack.__class__ for other in planned)
        label = f"{section.name}-{again + 1}" if again else section.name  # one name, one score
        granted = section.knowledge
        if granted == "paper":
            names = attack.paper_knowledge
        else:
            assert isinstance(granted, dict)
            for name in granted:
                if name not in Knowledge.names():
                    raise BadInput(unknown("attack.knowledge", name, Knowledge.names()))
            names = tuple(sorted(name for name, given in granted.items() if given))
        planned.append(
            PlannedAttack(
                name=label,
                attack=attack,
                rounds=tuple(section.rounds),
                clients=tuple(section.clients),
                knowledge=names,
            )
        )
    return planned


def in_force(defenses: Sequence[Defense]) -> tuple[Effect, ...]:
    """Return what an attack may be told of ``defenses``: what they declare, in order.

    Raises:
        BadInput: what one declares, an outsider's say, are no effects.
    """
    return tuple(effect for defense in defenses for effect in _declared(defense))


def _declared(defense: Defense) -> tuple[Effect, ...]:
    effects, kinds = defense.effects(), get_args(Effect)
    known = ", ".join(kind.__name__ for kind in kinds)
    wanted = f"defense {type(defense).__name__}: effects must be a tuple of {known}"
    if not isinstance(effects, tuple):
        raise BadInput(f"{wanted}, got {effects!r}")
    if wrong := [effect for effect in effects if type(effect) not in kinds]:
        raise BadInput(f"{wanted}, got {wrong[0]!r} in it")
    return effects


def grant(
    names: Sequence[str], truth: Truth | None, defenses: tuple[Effect, ...] | None = None
) -> Knowledge:
    """Return the knowledge called ``names``, from the truth: the only way it reaches an attack.

    ``defenses`` are the effects of those in force, None where that is not known either.
    """
    if not names:
        return Knowledge()
    if truth is None:
        raise BadInput(f"attack.knowledge: {', '.join(names)} cannot be granted: no truth is known")
    if "defense" in names and defenses is None:
        raise BadInput("attack.knowledge: defense cannot be granted: no config tells it")
    facts = {
        "defense": defenses,
        "labels": tuple(label for label in truth.labels if label is not None),
        "lengths": tuple(map(len, truth.sequences)),
        "batch_size": len(truth.sequences),
    }
    return Knowledge(**{name: facts[name] for name in names})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs the planned attacks on one client's update after the other."""

    planned: Sequence[PlannedAttack]
    adapter: ModelAdapter
    seed: int
    vault: VaultReader | None
    controls: bool
    note: Callable[[AttackRecord], None]
    errors: Path  # a directory for the tracebacks of attacks that raise
    display: Display
    defenses: tuple[Effect, ...] | None = None  # of those in force, where that is known
    told: set[str] = field(default_factory=set)  # why attacks could not run, said once each

    def attack_round(self, updates: Sequence[tuple[Clients, Broadcast, Update]]) -> None:
        """Attack the updates of one round: (whose, what was sent, what came back) each."""
        for planned in self.planned:
            wanted = [update for update in updates if planned.wants(update[1].round, update[0])]
            for clients, broadcast, update in wanted:
                self._attack(planned, clients, broadcast, update)
                if self.controls:
                    self._positive(planned, clients, broadcast)

    def _attack(
        self, planned: PlannedAttack, clients: Clients, broadcast: Broadcast, update: Update
    ) -> None:
        truth = self.vault.truth(broadcast.round, *clients) if self.vault else None
        observation = Observation(
            model=self.adapter,
            broadcast=broadcast,
            update=update,
            knowledge=grant(planned.knowledge, truth, self.defenses),
        )
        self._reconstruct(planned, observation, clients, role="attack")

    def _positive(self, planned: PlannedAttack, clients: Clients, broadcast: Broadcast) -> None:
        truth = self.vault.truth(broadcast.round, *clients) if self.vault else None
        lengths = [len(tokens) for tokens in truth.sequences] if truth else []
        shape = lengths or [12, 16]  # none is known, or every Poisson batch was empty
        own = own_sequences(self.adapter, shape)
        update = own_update(self.adapter, broadcast, own, self.seed)
        as_truth = Truth(sequences=own, labels=tuple(i % 2 for i in range(len(own))))
        observation = Observation(
            model=self.adapter,
            broadcast=broadcast,
            update=update,
            knowledge=grant(planned.knowledge, as_truth, ()),  # its update is undefended
        )
        self._reconstruct(planned, observation, clients, role="positive", truth=own)

    def _reconstruct(
        self,
        planned: PlannedAttack,
        observation: Observation,
        clients: Clients,
        *,
        role: Role,
        truth: Sequence[Tokens] = (),
    ) -> None:
        round_, client = observation.broadcast.round, clients[0]
        whose = f"client {client}" if len(clients) == 1 else f"the sum of {len(clients)} clients"
        what = "positive control" if role == "positive" else whose
        self.display.step(f"round {round_}: {planned.name} on {what}")
        generator = stream(self.seed, "attack", planned.name, role, round_, client)
        started, error = time.perf_counter(), None
        guess = Reconstruction(sequences=())
        try:
            with threads(best_threads(observation.broadcast.parameters)):
                guess = planned.attack.reconstruct(observation, generator)
        except UnsupportedObservation as reason:
            error = str(reason)
            self._tell(f"round {round_}: {planned.name} could not run on {what}: ", error)
        except KeyboardInterrupt:  # the user's
            raise
        except BaseException as fault:  # a plugin's, an exit too; training goes on, no verdict
            error = f"{planned.name} raised {type(fault).__name__}: {fault}"
            directory = self.errors / f"round={round_}" / f"client={client}"
            whole = keep_traceback(directory, f"{planned.name}-{role}", fault)
            self._tell(
                f"round {round_}: {planned.name} could not run on {what}: ", error,
                f" ({place_of(fault, type(planned.attack))}; the whole traceback: {whole})",
            )  # fmt: skip
        told: dict[str, Any] = {"clients": list(clients)} if len(clients) > 1 else {}
        if truth:
            told["truth"] = [list(tokens) for tokens in truth]
        decode = self.adapter.tokenizer.decode
        self.note(
            AttackRecord(
                attack=planned.name,
                role=role,
                round=round_,
                client=client,
                settings=planned.settings,
                knowledge=observation.knowledge.granted(),
                seconds=round(time.perf_counter() - started, 3),
                sequences=[list(tokens) for tokens in guess.sequences],
                texts=[decode(list(t), skip_special_tokens=True) for t in guess.sequences],
                diagnostics=dict(guess.diagnostics),
                error=error,
                **told,
            )
        )

    def _tell(self, before: str, error: str, after: str = "") -> None:
        """Say once why an attack could not run."""
        if error and error not in self.told:
            self.told.add(error)
            self.display.say(f"{before}{error.splitlines()[0]}{after}")
