from pathlib import Path

import pytest

from fedsim.errors import MalformedMessage
from fedsim.vault import audit_path
from fedsim.vault.reader import Truth, VaultReader
from fedsim.vault.writer import VaultWriter


def test_what_was_noted_comes_back(tmp_path: Path) -> None:
    writer, reader = VaultWriter(tmp_path), VaultReader(tmp_path)
    writer.note(3, 1, [(5, 6, 7), (8,)], [1, None])
    writer.note(3, 10, [(9, 9)], [0])
    assert reader.truth(3, 1) == Truth(sequences=((5, 6, 7), (8,)), labels=(1, None))
    assert reader.truth(3, 10) == Truth(sequences=((9, 9),), labels=(0,))


def test_noting_again_replaces(tmp_path: Path) -> None:
    writer = VaultWriter(tmp_path)
    writer.note(1, 0, [(1, 2), (3, 4)], [0, 1])
    writer.note(1, 0, [(5,)], [1])
    assert VaultReader(tmp_path).truth(1, 0) == Truth(sequences=((5,),), labels=(1,))


def test_what_was_not_noted_is_none(tmp_path: Path) -> None:
    VaultWriter(tmp_path).note(1, 0, [(1,)], [0])
    reader = VaultReader(tmp_path)
    assert reader.truth(1, 1) is None and reader.truth(2, 0) is None
    assert VaultReader(tmp_path / "elsewhere").truth(1, 0) is None


def test_clients_never_share_a_file(tmp_path: Path) -> None:
    writer = VaultWriter(tmp_path)
    for round_, client in ((1, 0), (1, 1), (2, 0)):
        writer.note(round_, client, [(round_, client)], [0])
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl"))
    assert files == ["round=1/client=0.jsonl", "round=1/client=1.jsonl", "round=2/client=0.jsonl"]


def test_every_example_needs_a_label_or_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        VaultWriter(tmp_path).note(1, 0, [(1,), (2,)], [0])
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
    VaultWriter(tmp_path / "vault").measured(1, 0, row)
    assert VaultReader(tmp_path / "vault").measured(1, 0) == row
