"""What a file says that clients trained on."""

from pathlib import Path

import pytest

from fedsim.errors import BadInput
from fedsim.lab.run.truths import public_pool, read_truths
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.types import Tokens

NODES = {2**63 + 11: 0, 15: 1}


@pytest.fixture(scope="module")
def adapter() -> ModelAdapter:
    return load_adapter(ModelSpec(name="builtin:gpt2-tiny"))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def decoded(adapter: ModelAdapter, tokens: Tokens) -> str:
    return str(adapter.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def test_rows_are_by_client_and_of_a_round_or_of_all(tmp_path: Path, adapter: ModelAdapter) -> None:
    path = write(
        tmp_path / "t.csv",
        "client,round,text,label\n0,1,one here,1\n0,2,two here,0\n1,,three here,\n",
    )
    truths = read_truths(path, adapter, {}, 64)

    def texts(round_: int, *clients: int) -> list[str]:
        told = truths.truth(round_, *clients)
        assert told is not None
        return [decoded(adapter, row) for row in told.sequences]

    assert texts(1, 0) == ["one here"] and texts(2, 0) == ["two here"]
    assert texts(7, 1) == ["three here"]
    assert texts(1, 0, 1) == ["one here", "three here"]
    assert truths.truth(3, 0) is None and truths.truth(1, 0, 5) is None
    told = truths.truth(1, 0, 1)
    assert told is not None and told.labels == (1, None)


def test_nodes_are_those_that_were_captured(tmp_path: Path, adapter: ModelAdapter) -> None:
    lines = [f'{{"node": {node}, "text": "of {client}"}}' for node, client in NODES.items()]
    for line, node in zip(lines, NODES, strict=True):
        write(tmp_path / f"node={node}.jsonl", line + "\n")
    truths = read_truths(tmp_path, adapter, NODES, 64)
    for client in NODES.values():
        told = truths.truth(1, client)
        assert told is not None
        assert decoded(adapter, told.sequences[0]).endswith(str(client))


def test_a_client_that_took_no_part_has_notes_and_no_capture(
    tmp_path: Path, adapter: ModelAdapter
) -> None:
    for node in (*NODES, 77):
        write(tmp_path / f"node={node}.jsonl", f'{{"node": {node}, "text": "a text"}}\n')
    assert set(read_truths(tmp_path, adapter, NODES, 64).examples) == {(None, 0), (None, 1)}


def test_texts_are_cut_as_the_project_cuts_them(tmp_path: Path, adapter: ModelAdapter) -> None:
    path = write(tmp_path / "t.jsonl", '{"client": 0, "text": "a b c d e f g h i j k l"}')
    told = read_truths(path, adapter, {}, 5).truth(1, 0)
    assert told is not None and [len(row) for row in told.sequences] == [5]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("t.txt", "a\n", "wanted a file of .csv, .tsv, .json, .jsonl, .parquet, or a directory"),
        ("t.csv", "text\na\n", "needs the columns text and client"),
        ("t.csv", "client,text\nx,a\n", "whole numbers as client, got 'x' in row 1"),
        ("t.csv", "client,text\n-1,a\n", "whole numbers as client"),
        ("t.csv", "client,text\n0.5,a\n", "whole numbers as client"),
        ("t.csv", "client,text\n0,a\n,b\n", "names no client"),
        ("t.csv", "client,text\n0,\n", "no text in row 1"),
        ("t.jsonl", '{"client": true, "text": "a"}', "whole numbers as client"),
        ("t.jsonl", '{"client": [1], "text": "a"}', "whole numbers as client"),
        ("t.jsonl", '{"client": {"a": 1}, "text": "a"}', "whole numbers as client"),
        ("t.jsonl", '{"client": 0, "text": 7}', "no text in row 1"),
        (
            "t.jsonl",
            '{"node": 3, "text": "a"}',
            "the node 3 and no other of which",
        ),
        ("t.csv", "", "is empty"),
    ],
)
def test_files_that_say_no_such_thing(
    tmp_path: Path, adapter: ModelAdapter, name: str, text: str, line: str
) -> None:
    with pytest.raises(BadInput, match=line):
        read_truths(write(tmp_path / name, text), adapter, NODES, 64)


@pytest.mark.parametrize("name", ["none.jsonl", "folder"])
def test_what_is_not_there(tmp_path: Path, adapter: ModelAdapter, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="--truth: "):
        read_truths(tmp_path / name, adapter, NODES, 64)


def test_the_pool_is_public_text(adapter: ModelAdapter) -> None:
    pool = public_pool(adapter, 16)
    assert len(set(pool)) == len(pool) > 100 and max(map(len, pool)) <= 16
