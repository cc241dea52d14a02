"""Runs attacks on what the tap saw, live or from captures, and notes what they guessed."""

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from attacks.worker.serving import LOGGER
from attacks.worker.task import LONGEST, Answer, Task
from defenses import Defense
from fedsim import limits
from fedsim.effects import Effect
from fedsim.errors import LEFT_OUT, BadInput, FedsimError
from fedsim.lab.config.paths import paths_of
from fedsim.lab.display import Display
from fedsim.lab.isolation.worker import Attempts, attack_worker
from fedsim.lab.run.candidates import Reserve, joined, question
from fedsim.lab.run.controls import own_sequences, own_update
from fedsim.lab.run.faults import keep_traceback
from fedsim.lab.run.planned import Clients, PlannedAttack
from fedsim.lab.store.attempts import Asked, AttackRecord, Role, readable
from fedsim.messages import Broadcast, Knowledge, Texts, Update
from fedsim.models import ModelAdapter
from fedsim.rng import derive, stream
from fedsim.types import Reads, Tokens
from fedsim.vault.reader import Truth, Truths


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
    vault: Truths | None
    controls: bool
    note: Callable[[AttackRecord], None]
    errors: Path  # a directory for the tracebacks of attacks that raise
    display: Display
    defenses: tuple[Effect, ...] | None = None  # of those in force, where that is known
    reserve: Reserve | None = None  # of texts that nobody trains on, where an attack is asked
    told: set[str] = field(default_factory=set)  # why attacks could not run, said once each
    worker: Attempts = field(default_factory=lambda: attack_worker())

    def attack_round(self, updates: Sequence[tuple[Clients, Broadcast, Update]]) -> None:
        """Attack the updates of one round: (whose, what was sent, what came back) each."""
        for planned in self.planned:
            wanted = [update for update in updates if planned.wants(update[1].round, update[0])]
            for clients, broadcast, update in wanted:
                others = [other[0] for other in updates if other[0] != clients]
                self._attack(planned, clients, broadcast, update, others)
                if self.controls:
                    self._positive(planned, clients, broadcast)

    def _attack(
        self,
        planned: PlannedAttack,
        clients: Clients,
        broadcast: Broadcast,
        update: Update,
        others: Sequence[Clients],
    ) -> None:
        truth = self._truth(broadcast.round, clients)
        about = _About(
            planned,
            clients,
            broadcast.round,
            "attack",
            grant(planned.knowledge, truth, self.defenses),
        )
        if planned.asks and truth is not None:
            known = [self._truth(broadcast.round, some) for some in others]
            about = self._asking(about, truth, joined([one for one in known if one is not None]))
        self._note(about, self._reconstruct(about, broadcast, update))

    def _truth(self, round_: int, clients: Clients) -> Truth | None:
        return self.vault.truth(round_, *clients) if self.vault else None

    def _asking(self, about: "_About", truth: Truth, others: Texts) -> "_About":
        """Return an attempt with candidates: the members of its update, and who is none."""
        assert self.reserve is not None  # whoever plans such an attack sees to it
        name = ("candidates", about.planned.name, about.role, about.round, about.client)
        lot = stream(self.seed, *name)
        asked = question(self.adapter, truth, others, self.reserve, lot)
        knowledge = asked.granted(about.knowledge, self.reserve.public)
        return replace(about, knowledge=knowledge, asked=asked.asked)

    def _own(self, planned: PlannedAttack, truth: Truth | None) -> Truth:
        """Return texts for the attacker to train on, in the shape of the client's batch."""
        if planned.asks and self.reserve is not None:
            own, wanted = self.reserve.own, len(truth.sequences) if truth else 0
            some = own.take(place % len(own) for place in range(max(1, wanted)))
            return Truth(sequences=some.sequences, labels=some.labels)
        lengths = [len(tokens) for tokens in truth.sequences] if truth else []
        shape = lengths or [12, 16]  # none is known, or every Poisson batch was empty
        own_texts = own_sequences(self.adapter, shape)
        labels = tuple(row % self.adapter.spec.num_labels for row in range(len(own_texts)))
        return Truth(sequences=own_texts, labels=labels)

    def _positive(self, planned: PlannedAttack, clients: Clients, broadcast: Broadcast) -> None:
        truth = self._truth(broadcast.round, clients)
        as_truth = self._own(planned, truth)
        knowledge = grant(planned.knowledge, as_truth, ())  # its update is undefended
        about = _About(planned, clients, broadcast.round, "positive", knowledge)
        if planned.asks and truth is not None:
            about = self._asking(about, as_truth, joined([truth]))
        try:
            seconds = planned.limits.seconds
            update = own_update(self.adapter, broadcast, as_truth, self.seed, seconds)
        except FedsimError as reason:
            answer = Answer(error=f"its control could not be made: {reason}")
        except Exception as fault:  # what a stranger's broadcast holds may be anything
            answer = Answer(
                error=f"its control could not be made: {type(fault).__name__}: {fault}",
                traceback="".join(traceback.format_exception(fault)),
            )
        else:
            answer = self._reconstruct(about, broadcast, update)
        self._note(about, answer, truth=as_truth)

    def _reconstruct(self, about: "_About", broadcast: Broadcast, update: Update) -> Answer:
        """Have the worker attack ``update``."""
        planned = about.planned
        self.display.step(f"round {about.round}: {planned.name} on {about.what}")
        name = ("attack", planned.name, about.role, about.round, about.client)
        spec = self.adapter.shown()
        answer = self.worker.attempt(
            Task(
                attack=planned.kind,
                label=planned.name,
                parameters=planned.there(),
                model=replace(spec, **paths_of(spec)),
                device=str(self.adapter.device),
                broadcast=broadcast,
                update=update,
                knowledge=about.knowledge,
                seed=derive(self.seed, *name),
                tells=logging.getLogger(LOGGER).isEnabledFor(logging.INFO),
                texts=not self.display.redact,
            ),
            planned.limits,
        )
        if all(token < self.adapter.vocabulary for row in answer.sequences for token in row):
            return answer
        return Answer(
            seconds=answer.seconds, error=f"{planned.name} guessed ids that are no tokens"
        )

    def _note(self, about: "_About", answer: Answer, truth: Truth | None = None) -> None:
        """Note what came of an attempt, and say once why it could not run."""
        planned = about.planned
        if answer.error:
            self._tell(about, answer)
        told: dict[str, Any] = {"clients": list(about.clients)} if len(about.clients) > 1 else {}
        if truth is not None and not about.asked:
            told["truth"] = [list(row) for row in _said(truth, planned.attack.reads(self.adapter))]
        if about.asked and answer.scores:
            told |= {"asked": list(about.asked), "scores": answer.scores}
            told["members"] = answer.members
        try:
            record = self._record(about, answer, told)
        except ValueError as error:  # what it says of itself
            line = f"{planned.name} gave an answer that no file can hold: {error}"
            answer = Answer(error=" ".join(line.split())[:LONGEST])
            self._tell(about, answer)
            record = self._record(about, answer, told)
        self.note(record)

    def _record(self, about: "_About", answer: Answer, told: Mapping[str, Any]) -> AttackRecord:
        kept, decode = answer.sequences[: limits.GUESSES], self.adapter.tokenizer.decode
        reads = about.planned.attack.reads(self.adapter)
        shown = kept if reads != "labels" else []  # they are no tokens
        dropped = {"dropped": more} if (more := len(answer.sequences) - len(kept)) else {}
        record = AttackRecord(
            attack=about.planned.name,
            role=about.role,
            round=about.round,
            client=about.client,
            settings=about.planned.settings,
            knowledge=about.knowledge.granted(),
            seconds=round(answer.seconds, 3),
            sequences=kept,
            texts=[decode(row, skip_special_tokens=True) for row in shown],
            reads=reads,
            diagnostics=answer.diagnostics,
            error=answer.error,
            **dropped,
            **told,
        )
        return readable(record)

    def _tell(self, about: "_About", answer: Answer) -> None:
        """Keep the traceback of an attack that could not run, and say once why it could not."""
        error, name, after = answer.error or "", about.planned.name, ""
        if answer.traceback:
            directory = self.errors / f"round={about.round}" / f"client={about.client}"
            whole = keep_traceback(directory, f"{name}-{about.role}", answer.traceback)
            where = f"{answer.place}; " if answer.place else ""
            after = f" ({where}the whole traceback: {whole})"
        if error not in self.told:
            self.told.add(error)
            line = LEFT_OUT if self.display.redact else error.splitlines()[0]
            self.display.say(
                f"round {about.round}: {name} could not run on {about.what}: {line}{after}"
            )


def _said(own: Truth, reads: Reads) -> Sequence[Tokens]:
    """Return what the attacker's own batch holds, as an attack that ``reads`` such would say it."""
    if reads == "labels":
        return [tuple(label for label in own.labels if label is not None)]
    return own.sequences


@dataclass(frozen=True)
class _About:
    """What an attempt is about."""

    planned: PlannedAttack
    clients: Clients
    round: int
    role: Role
    knowledge: Knowledge
    asked: tuple[Asked, ...] = ()  # what the candidates are

    @property
    def client(self) -> int:
        """The client, or the first of several."""
        return self.clients[0]

    @property
    def what(self) -> str:
        """What is attacked, in words."""
        several = len(self.clients) > 1
        whose = f"the sum of {len(self.clients)} clients" if several else f"client {self.client}"
        return "positive control" if self.role == "positive" else whose
