import os
import stat
from pathlib import Path

import pytest

from fedsim.errors import BadInput, MalformedMessage
from fedsim.rng import Secret
from fedsim.vault import audit_path
from fedsim.vault.keys import VaultKey, own_key
from fedsim.vault.reader import Truth, VaultReader
from fedsim.vault.writer import VaultWriter

Patch = pytest.MonkeyPatch


def writer(root: Path) -> VaultWriter:
    return VaultWriter(root, own_key().seal)


def test_what_was_noted_comes_back(tmp_path: Path) -> None:
    vault, reader = writer(tmp_path), VaultReader(tmp_path)
    vault.note(3, 1, [(5, 6, 7), (8,)], [1, None])
    vault.note(3, 10, [(9, 9)], [0])
    vault.pool([(1, 2), (3,)])
    assert reader.truth(3, 1) == Truth(sequences=((5, 6, 7), (8,)), labels=(1, None))
    assert reader.truth(3, 10) == Truth(sequences=((9, 9),), labels=(0,))
    assert reader.pool() == [(1, 2), (3,)]


def test_a_secret_comes_back_with_where_it_is_from(tmp_path: Path) -> None:
    secret = Secret(bytes(range(16)))
    assert VaultReader(tmp_path).secret() is None
    for given in (True, False):
        writer(tmp_path).secret(secret, given=given)
        assert VaultReader(tmp_path).secret() == (secret, given)


def test_noting_again_replaces(tmp_path: Path) -> None:
    vault = writer(tmp_path)
    vault.note(1, 0, [(1, 2), (3, 4)], [0, 1])
    vault.note(1, 0, [(5,)], [1])
    assert VaultReader(tmp_path).truth(1, 0) == Truth(sequences=((5,),), labels=(1,))


def test_what_was_not_noted_is_none(tmp_path: Path) -> None:
    writer(tmp_path).note(1, 0, [(1,)], [0])
    reader = VaultReader(tmp_path)
    assert reader.truth(1, 1) is None and reader.truth(2, 0) is None
    assert VaultReader(tmp_path / "elsewhere").truth(1, 0) is None
    assert VaultReader(tmp_path / "elsewhere").pool() == []


def test_clients_never_share_a_file(tmp_path: Path) -> None:
    for round_, client in ((1, 0), (1, 1), (2, 0)):
        writer(tmp_path).note(round_, client, [(round_, client)], [0])
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl"))
    assert files == ["round=1/client=0.jsonl", "round=1/client=1.jsonl", "round=2/client=0.jsonl"]


def test_every_example_needs_a_label_or_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        writer(tmp_path).note(1, 0, [(1,), (2,)], [0])
    assert VaultReader(tmp_path).truth(1, 0) is None


@pytest.mark.parametrize(
    "line",
    [
        '{"label": 1}',
        '{"tokens": 3}',
        '{"tokens": ["text"]}',
        "[1, 2]",
        "7",
        '{"tokens": null}',
        '{"tokens": [-1]}',
        '{"tokens": [2147483648]}',
        '{"tokens": [1], "label": "a"}',
        '{"tokens": [1], "label": 1e999}',
        "[" * 3000,
    ],
)
def test_a_line_without_tokens_is_malformed(tmp_path: Path, line: str) -> None:
    path = tmp_path / "round=1" / "client=0.jsonl"
    path.parent.mkdir()
    path.write_text(line + "\n")
    with pytest.raises(MalformedMessage, match="each line needs a list 'tokens'"):
        VaultReader(tmp_path).truth(1, 0)


# Sealed


def test_a_vault_from_before_it_was_sealed_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "round=1" / "client=0.jsonl"
    path.parent.mkdir()
    path.write_text('{"tokens": [5, 6], "label": 1}\n')
    VaultReader(tmp_path).check()
    assert VaultReader(tmp_path).truth(1, 0) == Truth(sequences=((5, 6),), labels=(1,))


def test_no_file_shows_a_token_and_no_two_are_alike(tmp_path: Path) -> None:
    kept = []
    for root in (tmp_path / "one", tmp_path / "other"):
        writer(root).note(1, 0, [(4242, 777_777)], [1])
        writer(root).secret(Secret(b"sixteen letters!"), given=True)
        kept.append(b"".join(path.read_bytes() for path in sorted(root.rglob("*.jsonl"))))
        for text in (b"4242", b"777777", b"tokens", b"sixteen", b"sixteen letters!".hex().encode()):
            assert text not in kept[-1]
    assert kept[0] != kept[1]


def test_all_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)  # which would let everybody
    try:
        writer(tmp_path / "vault").note(1, 0, [(1,)], [0])
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode): path.is_dir() for path in tmp_path.rglob("*")}
    assert modes == {0o700: True, 0o600: False}


def other_key(monkeypatch: Patch, where: Path) -> VaultKey:
    monkeypatch.setenv("FEDSIM_KEY_FILE", str(where))
    return own_key()


def test_the_key_is_made_once_and_kept_from_others(tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "new" / "vault.key"
    key = other_key(monkeypatch, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert bytes.fromhex(path.read_text()) == key.private
    assert own_key() == key and key.private.hex() not in repr(key)
    assert [one.name for one in path.parent.iterdir()] == ["vault.key"]


def test_the_default_place_is_the_users_config(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.delenv("FEDSIM_KEY_FILE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert own_key().path == tmp_path / "fedsim" / "vault.key"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_key().path == tmp_path / ".config" / "fedsim" / "vault.key"


def test_another_key_reads_nothing_and_says_so(tmp_path: Path, monkeypatch: Patch) -> None:
    writer(tmp_path / "vault").note(1, 0, [(1,)], [0])
    other_key(monkeypatch, tmp_path / "other.key")
    reader, wanted = VaultReader(tmp_path / "vault"), "client=0.jsonl is not sealed with the key in"
    with pytest.raises(BadInput, match=wanted):
        reader.check()
    with pytest.raises(BadInput, match=wanted):
        reader.truth(1, 0)


@pytest.mark.parametrize("harm", ["moved", "changed", "cut"])
def test_what_was_tampered_with_is_not_read(tmp_path: Path, harm: str) -> None:
    writer(tmp_path).note(1, 0, [(1, 2, 3)], [0])
    path = tmp_path / "round=1" / "client=0.jsonl"
    content = path.read_bytes()
    if harm == "moved":
        path = path.rename(path.with_name("client=1.jsonl"))
    else:
        path.write_bytes(content[:-1] + b"?" if harm == "changed" else content[:20])
    with pytest.raises(BadInput, match="is not sealed with the key"):
        VaultReader(tmp_path).truth(1, 1 if harm == "moved" else 0)


@pytest.mark.parametrize("content", ["", "abc", "ab" * 31, "not hexadecimal"])
def test_a_key_file_that_holds_none(tmp_path: Path, monkeypatch: Patch, content: str) -> None:
    path = tmp_path / "vault.key"
    path.write_text(content)
    with pytest.raises(BadInput, match="FEDSIM_KEY_FILE: "):
        other_key(monkeypatch, path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"bytes": 1}', "wanted bytes, seconds and bits_per_entry"),
        ('{"bytes": "many", "seconds": 1, "bits_per_entry": 1}', "bytes"),
        ('{"failed": 3}', "failed"),
        ('{"failed": "x", "text": "y"}', "text: wanted Extra inputs"),
        ("[]", "all of it: wanted"),
    ],
)
def test_a_wire_audit_that_says_something_else_is_malformed(
    tmp_path: Path, text: str, line: str
) -> None:
    path = audit_path(tmp_path / "vault", 1, 0)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(MalformedMessage, match=rf"client=0.json: .*{line}"):
        VaultReader(tmp_path / "vault").measured(1, 0)


def test_a_wire_audit_comes_back(tmp_path: Path) -> None:
    row = {"defenses": [{"std": 1.5}], "bytes": 3, "seconds": 0.5, "bits_per_entry": 32.0}
    writer(tmp_path / "vault").measured(1, 0, row)
    assert VaultReader(tmp_path / "vault").measured(1, 0) == row
