"""What clients draw from where a defense claims a guarantee: a secret, kept in the run's vault."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from defenses import Defense
from defenses.base import Private
from fedsim.errors import BadInput
from fedsim.files import read_text
from fedsim.rng import SIZE, Secret
from fedsim.vault.keys import own_key
from fedsim.vault.reader import VaultReader
from fedsim.vault.writer import VaultWriter

MOST = 1000  # bytes of a file with one
UNCLAIMED = "--secret: no defense here claims a guarantee, so the run follows from its seed"
KNOWN = {  # where the clients' randomness came from, if anybody may know it
    "given": "the secret that this run was given",
    "seed": "this run's seed, from which its noise was drawn",
}


def claims(defenses: Sequence[Defense]) -> bool:
    """Say whether one of ``defenses`` claims a guarantee: what is drawn must then be unknown."""
    return any(
        math.isfinite(defense.distance())
        if isinstance(defense, Private)
        else defense.guarantee() is not None or type(defense).spent is not Defense.spent
        for defense in defenses
    )


def clients_secret(vault: Path, defenses: Sequence[Defense], *, begun: bool) -> Secret | None:
    """Return what the clients draw from in place of the seed, made where there is none yet.

    None: nothing is claimed, and all follows from the seed.

    Args:
        vault: the run's.
        defenses: the run's.
        begun: whether there are rounds that clients have answered.

    Raises:
        BadInput: they drew from the seed, as they did before there were secrets.
    """
    if not claims(defenses):
        return None
    kept = VaultReader(vault).secret()
    if kept is None and begun:
        raise BadInput(
            f"{str(vault.parent)!r} was begun when noise still came from the seed, so its "
            "guarantee is void; run it anew"
        )
    if kept is None:
        secret = Secret.drawn()
        VaultWriter(vault, own_key().seal).secret(secret, given=False)
        return secret
    return kept[0]


def give_secret(vault: Path, defenses: Sequence[Defense], secret: Secret) -> None:
    """Have the run draw from ``secret``, which repeats it.

    Raises:
        BadInput: nothing would be drawn from it.
    """
    if not claims(defenses):
        raise BadInput(UNCLAIMED)
    VaultWriter(vault, own_key().seal).secret(secret, given=True)


def read_secret(path: Path) -> Secret:
    """Return the secret in ``path``.

    Raises:
        BadInput: it cannot be read, or holds none.
    """
    try:
        return Secret(bytes.fromhex(read_text(path, most=MOST)))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"--secret: wanted a file of {2 * SIZE} hexadecimal digits (openssl rand -hex {SIZE} "
            f"makes them), got {str(path)!r}: {error}"
        ) from error


def origin(vault: Path) -> str:
    """Return where the clients' randomness came from: ``random``, ``given`` or ``seed``."""
    kept = VaultReader(vault).secret()
    return "seed" if kept is None else "given" if kept[1] else "random"


def caveats(guarantee: Mapping[str, Any] | None) -> list[str]:
    """Return whom a guarantee does not hold against, in a line, where there is anybody."""
    known = KNOWN.get(str((guarantee or {}).get("secret")))
    return [f"The guarantee holds only against whoever does not know {known}."] if known else []
