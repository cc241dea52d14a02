"""A record says what it must, or one line says what is wrong."""

from pathlib import Path

import pytest
from pydantic import Field

from fedsim.errors import BadInput, MalformedFile
from fedsim.files import write_json
from fedsim.records import Client, FileRecord, Round, TokenIds, checked_rows, read_record


class Example(FileRecord):
    round: Round
    client: Client = 0
    tokens: TokenIds = Field([])
    seconds: float = 0.0


def test_a_record_is_what_its_file_says(tmp_path: Path) -> None:
    write_json(tmp_path / "it.json", {"round": 3, "tokens": [1, 2], "more": 1})
    record = read_record(tmp_path / "it.json", Example)
    assert record.as_dict() == {"round": 3, "tokens": [1, 2]}  # as it was set


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({}, "round: wanted Field required"),
        ({"round": 10**9}, "round: wanted less than or equal to 1000000, got '1000000000'"),
        ({"round": -1}, "round: wanted greater than or equal to 0"),
        ({"round": 1, "tokens": [1, -2]}, r"tokens\.1: wanted greater than or equal to 0"),
        ({"round": 1, "tokens": [2**31]}, r"tokens\.0: wanted less than"),
        ({"round": 1, "client": 1.5}, "client: wanted a valid integer"),
        ({"round": 1, "seconds": float("nan")}, "seconds: wanted a finite number"),
        ({"round": 1, "seconds": float("inf")}, "seconds: wanted a finite number"),
        ([], "all of it: wanted"),
        (None, "all of it: wanted"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, value: object, line: str) -> None:
    path = tmp_path / "it.json"
    write_json(path, value)
    with pytest.raises(MalformedFile, match=rf"^{path}: {line}") as error:
        read_record(path, Example)
    assert isinstance(error.value, BadInput) and "\n" not in str(error.value)
    with pytest.raises(MalformedFile, match=rf"^{path}, line 2: {line}"):
        checked_rows(path, [{"round": 1}, value], Example)
