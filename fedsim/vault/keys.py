"""The key of this user's vaults: for the lab alone, in a file of its own, far from any run."""

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedsim.errors import BadInput, RunFailed
from fedsim.files import FILE as MODE
from fedsim.files import make_directory, read_text
from fedsim.vault.sealing import HEAD, SUITE, Seal

FILE = "FEDSIM_KEY_FILE"  # of the environment: where the key lies, in place of the default
SIZE = 32  # bytes
MOST = 1000  # bytes of the file


@dataclass(frozen=True)
class VaultKey:
    """Reads what was sealed."""

    private: bytes = field(repr=False)  # X25519
    path: Path  # where it lies

    @property
    def seal(self) -> Seal:
        """What clients seal with."""
        key = X25519PrivateKey.from_private_bytes(self.private)
        return Seal(key.public_key().public_bytes_raw())

    def opened(self, content: bytes, place: str) -> bytes:
        """Return what was sealed at ``place``; what never was comes back as it is.

        Raises:
            BadInput: it was sealed with another key, or elsewhere.
        """
        if not content.startswith(HEAD):
            return content
        key = X25519PrivateKey.from_private_bytes(self.private)
        try:
            return SUITE.decrypt(content.removeprefix(HEAD), key, place.encode())
        except (InvalidTag, ValueError) as error:
            raise BadInput(
                f"vault: {place} is not sealed with the key in {self.path}; set {FILE} to that of "
                "whoever ran it"
            ) from error


def key_path() -> Path:
    """Return where this user's key lies.

    Raises:
        BadInput: nothing says where.
    """
    if given := os.environ.get(FILE):
        return Path(given)
    try:
        home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError as error:
        raise BadInput(f"{FILE}: there is no home to keep the vault's key in; set it") from error
    return Path(home, "fedsim", "vault.key")


def own_key() -> VaultKey:
    """Return this user's key, made where there is none.

    Raises:
        BadInput: it cannot be read or kept.
    """
    return _kept(key_path())


@functools.lru_cache(maxsize=4)
def _kept(path: Path) -> VaultKey:
    try:
        if not path.exists():
            _make(path)
        private = bytes.fromhex(read_text(path, most=MOST))
    except (OSError, ValueError, RunFailed) as error:
        raise BadInput(
            f"{FILE}: the vault's key cannot be kept in {path}: {error}; set it to another file"
        ) from error
    if len(private) != SIZE:
        raise BadInput(f"{FILE}: {path} holds no key of {SIZE} bytes, but {len(private)}")
    return VaultKey(private, path)


def _make(path: Path) -> None:
    """Write a new key to ``path``, unless somebody is faster."""
    make_directory(path.parent, wanted=path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    private = X25519PrivateKey.generate().private_bytes_raw()
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE), "w") as file:
        file.write(f"{private.hex()}\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # unlike a move, it replaces none
    except FileExistsError:
        pass
    finally:
        draft.unlink()
