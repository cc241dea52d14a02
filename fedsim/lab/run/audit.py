"""What the clients measured of their own updates: the wire audit, bytes, seconds, the guarantee."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from clients.memory import ClientMemory
from fedsim.errors import MalformedFile, RunFailed
from fedsim.lab.run.prepare import Experiment
from fedsim.lab.run.secrecy import origin
from fedsim.lab.store.run import RunDirectory
from fedsim.vault import audit_path
from fedsim.vault.reader import VaultReader
from server import Exchange


def stop_where_a_defense_failed(run: RunDirectory, exchanges: Sequence[Exchange]) -> None:
    """Raise RunFailed when a client's audit caught a defense: no run goes on without it.

    Other failures are the federation's affair (``federation.on_failure``). Some have no client's
    name: of those nothing was measured either.
    """
    for exchange in exchanges:
        if exchange.error and exchange.client is not None:
            measured = VaultReader(run.vault).measured(exchange.round, exchange.client) or {}
            if "failed" in measured:
                raise RunFailed(
                    f"round {exchange.round}, client {exchange.client}: {measured['failed']}"
                )


def wire(experiment: Experiment, run: RunDirectory) -> dict[str, Any]:
    """Return what an update took, on average, and what each defense did to it, in order."""
    names = [section.name for section in experiment.config.defense]
    rows = _measured(run, len(names))
    if not rows:
        return {}
    defenses = [
        {"defense": name, **_spread([row["defenses"][place] for row in rows])}
        for place, name in enumerate(names)
    ]
    return {
        "updates": len(rows),
        "bytes_up": round(fmean(row["bytes"] for row in rows)),
        "bits_per_entry": round(fmean(row["bits_per_entry"] for row in rows), 4),
        "seconds": round(fmean(row["seconds"] for row in rows), 4),
        "defenses": defenses,
    }


def _measured(run: RunDirectory, defenses: int) -> list[dict[str, Any]]:
    """Return the measures of every update of the rounds that are done."""
    vault = VaultReader(run.vault)
    measured = [
        of_update(vault, record.round, client, defenses)
        for record in run.rounds()
        for client in record.clients
    ]
    return [row for row in measured if "bytes" in row]


def of_update(vault: VaultReader, round_: int, client: int, defenses: int) -> dict[str, Any]:
    """Return what was measured of an update that so many defenses protected, or {}: nothing was.

    Raises:
        MalformedFile: it says so of another number of them.
    """
    found = vault.measured(round_, client) or {}
    if "bytes" in found and len(found.get("defenses", ())) != defenses:
        path = audit_path(vault.root, round_, client)
        raise MalformedFile(f"{path}: wanted figures of {defenses} defenses")
    return found


def _spread(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return each figure's mean, least and largest over the updates that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {
        name: {"mean": fmean(some), "min": min(some), "max": max(some)}
        for name, some in values.items()
    }


def guarantee(experiment: Experiment, run: RunDirectory) -> dict[str, Any] | None:
    """Return the guarantee over the rounds that are done: the worst client's, or None.

    Of several the one of the least epsilon: each is true beside the others.
    """
    defenses, memory = experiment.defenses, ClientMemory.beside(run.vault)
    rounds = run.rounds()
    answered = {client for record in rounds for client in record.clients}
    failed = {failure.client for record in rounds for failure in record.failures}  # an answer, too
    took_part = sorted(client for client in answered | failed if client is not None)
    after = max((record.round for record in rounds), default=0) + 1
    kept = [memory.before(client, after, len(defenses)) for client in took_part]
    said = [defense.spent([m[place] for m in kept]) for place, defense in enumerate(defenses)]
    guarantees = [guarantee for guarantee in said if guarantee is not None]
    if not guarantees:
        return None
    least = min(guarantees, key=lambda guarantee: guarantee.epsilon)
    return {**asdict(least), "secret": origin(run.vault)}
