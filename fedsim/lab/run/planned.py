"""The attacks of a config, each checked: what to run, where, with which knowledge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from attacks import Attack, attack_table
from fedsim.errors import BadInput, unknown
from fedsim.lab.config import AttackSection
from fedsim.lab.config.paths import there
from fedsim.lab.isolation.worker import Limits
from fedsim.lab.scoring.earned import Tried, kinds_for, run_verdict
from fedsim.lab.store.summary import Judgement, RunVerdict
from fedsim.messages import Knowledge
from fedsim.models import ModelAdapter
from fedsim.plugins import make

ASKED = ("candidates", "public")  # knowledge of attacks alone that need it
Clients = tuple[int, ...]
"""Whose update it is: one client, or those whose sum it is under secure aggregation."""


@dataclass(frozen=True, kw_only=True)
class PlannedAttack:
    """One attack of a config: what to run, where, with which knowledge."""

    name: str
    attack: Attack
    kind: str  # its name in the table of attacks
    parameters: Mapping[str, Any]  # those that were given
    limits: Limits
    rounds: tuple[int, ...]  # () every one
    clients: tuple[int, ...]  # () every one
    knowledge: tuple[str, ...]  # names of Knowledge's fields

    def wants(self, round_: int, clients: Clients) -> bool:
        """Return whether the update of ``clients`` (their sum, if several) is to be attacked."""
        return (not self.rounds or round_ in self.rounds) and (
            not self.clients or not set(clients).isdisjoint(self.clients)
        )

    def there(self) -> dict[str, Any]:
        """Return the parameters that were given, with absolute paths: the worker is elsewhere."""
        paths = self.attack.paths
        return {k: there(v) if k in paths else v for k, v in self.parameters.items()}

    @property
    def asks(self) -> bool:
        """Whether it is asked about candidates."""
        return "candidates" in self.attack.needs

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
            allowed = [n for n in Knowledge.names() if n not in ASKED or n in attack.needs]
            for name in granted:
                if name not in allowed:
                    raise BadInput(unknown("attack.knowledge", name, allowed))
            names = tuple(sorted(name for name, given in granted.items() if given))
        planned.append(
            PlannedAttack(
                name=label,
                attack=attack,
                kind=section.name,
                parameters=section.parameters,
                limits=Limits(seconds=section.seconds, memory=section.memory),
                rounds=tuple(section.rounds),
                clients=tuple(section.clients),
                knowledge=tuple(name for name in names if name not in attack.needs),
            )
        )
    return planned


def judged_run(
    planned: Sequence[PlannedAttack],
    verdicts: Mapping[str, Judgement],
    model: ModelAdapter,
    *,
    defended: bool,
) -> RunVerdict:
    """Return the verdict of a run by those of its attacks.

    Args:
        planned: the attacks that were to run.
        verdicts: by attack.
        model: whose updates they were.
        defended: whether a defense was in force that an attack may be told of.
    """
    tried = {
        at.name: Tried(
            attack=at.attack,
            judged=verdicts[at.name],
            told=not defended or "defense" in at.knowledge,
            fits=at.attack.applies(model),
        )
        for at in planned
        if at.name in verdicts
    }
    return run_verdict(tried, kinds_for(model))
