"""Files are whole or not there; every failure names the file."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedsim import limits
from fedsim.errors import BadInput, MalformedFile, MalformedMessage, RunFailed
from fedsim.files import (
    append_line,
    drop_drafts,
    make_private,
    parse_json,
    read_bytes,
    read_json,
    read_lines,
    read_text,
    too_deep,
    write_atomically,
    write_json,
    write_lines,
    write_tensors,
    write_text,
)

FULL = OSError(errno.ENOSPC, "No space left on device")


def full_disk(*args: object, **kwargs: object) -> None:
    raise FULL


def half_then(error: Exception) -> Callable[[Path], None]:
    """Return a writer that gets half of its work done."""

    def write(draft: Path) -> None:
        draft.write_text("new, but only ha")
        raise error

    return write


@pytest.mark.parametrize("error", [ValueError("a slip"), KeyboardInterrupt()])
def test_a_writer_that_stops_half_way_leaves_the_old_file_alone(
    tmp_path: Path, error: Exception
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        write_atomically(path, half_then(error))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]  # no temporary file beside it


def test_a_writer_that_stops_half_way_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"could not write .*sub/file.txt: .*No space left"):
        write_atomically(tmp_path / "sub" / "file.txt", half_then(FULL))
    assert os.listdir(tmp_path / "sub") == []


def test_half_a_surrogate_pair_is_one_line(tmp_path: Path) -> None:
    for write in (write_json, append_line):
        with pytest.raises(RunFailed, match=r"could not write .*file: .*'\\ud800'"):
            write(tmp_path / "file", ["a \ud800"])
    assert (tmp_path / "file").read_text() == ""  # append_line's: opened, then nothing


def test_the_file_appears_at_its_place_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    existed: list[bool] = []

    def write(draft: Path) -> None:
        draft.write_text("whole")
        existed.append(path.exists())
        assert draft.parent.parent == path.parent  # a move within one file system is atomic

    write_atomically(path, write)
    assert existed == [False] and path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_whoever_has_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    os.link(path, tmp_path / "same.txt")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"  # a new file took its place; the old one was not written to
    assert (tmp_path / "same.txt").read_text() == "old" and path.read_text() == "new"


def test_a_full_disk_is_a_failed_run_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"w": torch.ones(3)})
    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(RunFailed, match=r"could not write .*weights.safetensors: .*No space left"):
        write_tensors(path, {"w": torch.zeros(3)})
    assert torch.equal(load_file(path)["w"], torch.ones(3))
    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(RunFailed, match=r"could not write .*summary.json: .*No space left"):
        write_json(tmp_path / "summary.json", {})
    assert os.listdir(tmp_path) == ["weights.safetensors"]


def test_a_disk_that_fills_up_while_a_line_is_appended_is_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunFailed, match=r"could not write .*rounds.jsonl: .*No space left"):
        append_line(tmp_path / "rounds.jsonl", {"round": 1})


@pytest.mark.parametrize("write", [lambda path: write_text(path, ""), lambda p: append_line(p, 1)])
def test_a_directory_that_cannot_be_made_is_a_failed_run(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFailed, match=r"could not write .*file/below.txt"):
        write(tmp_path / "file" / "below.txt")


def test_text_is_utf8_and_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "naïve ≠ naive\n")
    assert path.read_bytes() == b"na\xc3\xafve \xe2\x89\xa0 naive\n"


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"text": "Zoë", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert text.endswith("}\n") and "Zoë" in text  # readable as it is
    assert json.loads(text) == value == read_json(tmp_path / "value.json")


def test_json_that_is_missing_or_broken_says_so(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    with pytest.raises(MalformedMessage, match=r"value.json is missing"):
        read_json(path)
    path.write_text('{"schema": 1, "rou')
    with pytest.raises(MalformedMessage, match=r"value.json is not valid JSON"):
        read_json(path)
    path.write_bytes(b'{"text": "Zo\xff"}')
    with pytest.raises(MalformedMessage, match=r"value.json is not valid JSON"):
        read_json(path)


def test_lines_come_back_and_more_can_be_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    append_line(path, {"a": 1})
    append_line(path, ["Zoë\n"])  # a line break inside a value stays inside its line
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    assert list(read_lines(path)) == [{"a": 1}, ["Zoë\n"]]
    write_lines(path, [3, None])
    assert list(read_lines(path)) == [3, None]
    write_lines(path, [])
    assert list(read_lines(path)) == []


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert list(read_lines(tmp_path / "rows.jsonl")) == []


@pytest.mark.parametrize("torn", ['{"round": 3, "lo', '{"text": "a", ', "{"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"round": 1}\n\n{"round": 2}\n' + torn)
    assert list(read_lines(path)) == [{"round": 1}, {"round": 2}]


def test_a_last_line_torn_inside_a_character_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_line(path, {"round": 1})
    append_line(path, {"text": "Zoë"})
    whole = path.read_bytes()
    cut = whole.index("ë".encode()) + 1  # between the two bytes of the ë
    path.write_bytes(whole[:cut])
    assert list(read_lines(path)) == [{"round": 1}]


def test_a_torn_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"round": 1}\n{"round": 2, "lo\n{"round": 3}\n')
    rows = read_lines(path)
    assert next(rows) == {"round": 1}
    with pytest.raises(MalformedMessage, match=r"rows.jsonl, line 2 is not valid JSON"):
        next(rows)


def test_a_broken_last_line_that_was_finished_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"round": 1}\n{"round": 2, "lo\n')
    with pytest.raises(MalformedMessage, match=r"rows.jsonl, line 2 is not valid JSON"):
        list(read_lines(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_tensors_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    drawn = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 100
    tensors = {"turned": drawn.to(dtype).T, "point": torch.tensor(3, dtype=dtype)}
    tensors["none"] = torch.empty(0, 3, dtype=dtype)
    if dtype.is_floating_point:
        tensors["trained"] = torch.nn.Parameter(drawn.to(dtype))
    write_tensors(tmp_path / "tensors.safetensors", tensors)
    read = load_file(tmp_path / "tensors.safetensors")
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == dtype
        assert torch.equal(read[name], tensor.detach())


# Modes


@pytest.fixture
def open_to_all() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("open_to_all")
def test_what_is_written_is_its_owners_alone(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    write_json(root / "json", 1)
    write_lines(root / "lines", [1])
    write_tensors(root / "tensors", {"w": torch.zeros(2)})
    write_atomically(root / "renamed", lambda draft: anew(draft))
    append_line(root / "appended", 1)
    append_line(root / "appended", 2)
    assert {mode(path) for path in root.iterdir()} == {0o600} and len(list(root.iterdir())) == 5
    assert mode(root) == mode(root.parent) == 0o700


def anew(draft: Path) -> None:
    """Write as libraries do that write beside the file they were given, then move it there."""
    beside = draft.with_name("beside")
    beside.write_text("anew")
    beside.replace(draft)


@pytest.mark.usefixtures("open_to_all")
def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(0o755)
    write_json(tmp_path / "theirs" / "mine" / "json", 1)
    assert mode(tmp_path / "theirs") == 0o755 and mode(tmp_path / "theirs" / "mine") == 0o700


@pytest.mark.usefixtures("open_to_all")
def test_what_a_library_wrote_can_be_made_private(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_text("theirs")
    make_private(tmp_path / "deep")
    modes = [mode(path) for path in sorted((tmp_path / "deep").rglob("*"))]
    assert [mode(tmp_path / "deep"), *modes] == [0o700, 0o700, 0o600]


# What anybody may have put there


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[" * 5000, "nested too deeply"),
        ("[" * 300 + "]" * 300, "nested too deeply"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested too deeply"),
        ("9" * 5000, "an integer must have 64 bits, got one of 5000 digits"),
        (str(2**63), "an integer must have 64 bits"),
        (str(-(2**63)), "an integer must have 64 bits"),
    ],
)
def test_integers_and_depth_have_limits(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "value.json"
    path.write_text(text)
    with pytest.raises(MalformedFile, match=rf"value.json.*{line}") as error:
        read_json(path)
    assert isinstance(error.value, BadInput) and "\n" not in str(error.value)
    path.write_text(f"1\n{text}\n")
    with pytest.raises(MalformedFile, match=rf"value.json, line 2.*{line}"):
        list(read_lines(path))


def test_what_is_within_the_limits_is_read() -> None:
    for value in (2**63 - 1, -(2**63) + 1, 0.00012345678901234567, 1e308, 1e-320, "9" * 30):
        assert parse_json(json.dumps(value).encode(), "it") == value
    deep = json.loads("[" * limits.DEEPEST + "]" * limits.DEEPEST)
    assert not too_deep(deep) and too_deep([deep]) and too_deep({"a": deep})
    assert parse_json(json.dumps(deep).encode(), "it") == deep


def test_sizes_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JSON_BYTES", 100)
    monkeypatch.setattr(limits, "PARTS", 20)
    path = tmp_path / "value.json"
    path.write_text(json.dumps("x" * 98))
    assert read_json(path) == "x" * 98
    path.write_text(json.dumps("x" * 99))
    with pytest.raises(MalformedFile, match=r"value.json is too large: more than 100 bytes"):
        read_json(path)
    path.write_text("[" + ",".join(["[]"] * 20) + "]")
    with pytest.raises(MalformedFile, match=r"too large: more than 20 tables and lists"):
        read_json(path)
    path.write_text("1\n" * 200 + json.dumps("x" * 100) + "\n")
    rows = read_lines(path)
    assert [next(rows) for _ in range(200)] == [1] * 200  # a line has a limit, a file has none
    with pytest.raises(MalformedFile, match=r"line 201 is too large"):
        next(rows)
    with pytest.raises(MalformedFile, match=r"value.json is too large: more than 50 bytes"):
        read_text(path, most=50)


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "value.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for read in (read_json, lambda p: list(read_lines(p)), lambda p: read_text(p, most=9)):
        with pytest.raises(MalformedFile, match=r"value.json cannot be read: it is no regular"):
            read(path)


def test_no_more_memory_is_taken_than_there_is_to_read(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(b'{"a": 1}')
    tracemalloc.start()
    try:
        assert read_bytes(path, most=2**30) == b'{"a": 1}' and read_json(path) == {"a": 1}
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_file_that_tells_no_size_is_read_whole_and_within_the_limit() -> None:
    path = Path("/proc/self/maps")  # longer than one chunk, and regular
    if not path.exists():
        pytest.skip("needs /proc")
    assert path.stat().st_size == 0 and len(read_bytes(path, most=2**30)) > 2**16
    with pytest.raises(MalformedFile, match=r"maps is too large: more than 70,000 bytes"):
        read_bytes(path, most=70_000)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_json_in_another_encoding_is_one_line(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "value.json"
    for text in ('{"a": 1}', f'{{"a": 1{"0" * 400}}}', "[" * 100):  # nor is it within the limits
        path.write_bytes(f"{text}\n".encode(encoding))
        for read in (read_json, lambda p: list(read_lines(p))):
            with pytest.raises(MalformedFile, match=r"value.json.* is not valid JSON: "):
                read(path)


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert read_json(path) == {"a": 1} and list(read_lines(path)) == [{"a": 1}]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_text(path, most=20) == "a = 1"


# Where nothing can be written, nothing can be removed either: the first of it is what is told


def test_a_name_that_no_directory_takes_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 252)  # as a name it fits, as a draft's it does not
    with pytest.raises(RunFailed, match=r"could not write .*xx: .*File name too long"):
        write_text(path, "")


def test_a_directory_that_is_read_only_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RunFailed, match=r"could not write .*file: .*Read-only file system"):
        write_text(tmp_path / "file", "")


# Drafts of processes that were killed

WRITER = """
import sys, time
from pathlib import Path
from fedsim.files import write_atomically

def write(draft):
    draft.write_text("half of it")
    print(draft, flush=True)
    time.sleep(600)

write_atomically(Path(sys.argv[1]), write)
"""


@pytest.mark.slow
def test_a_draft_lives_as_long_as_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file.txt"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        draft = Path(writer.stdout.readline().strip())
        assert draft.parent == path.with_name(f".fedsim-file.txt.{writer.pid}.tmp")
        drop_drafts(tmp_path, deep=True)
        assert draft.read_text() == "half of it"
        writer.send_signal(signal.SIGKILL)
    assert os.listdir(path.parent) == [draft.parent.name]  # nobody was there to remove it
    drop_drafts(tmp_path, deep=True)
    assert os.listdir(path.parent) == []


def test_nothing_but_drafts_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / ".fedsim-link.1.tmp").symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / ".fedsim-pipe.1.tmp")
    for name in ("fedsim-notes.1.tmp", ".session.4242.tmp", ".fedsim-notes.x.tmp", ".lock"):
        (tmp_path / name).write_text("")
    before = sorted(os.listdir(tmp_path))
    drafts = [tmp_path / ".fedsim-a.1.tmp", tmp_path / "precious" / ".fedsim-b.c.22.tmp"]
    for draft in drafts:
        draft.mkdir()
        (draft / ".tmpAbc123").write_text("as safetensors leaves it")
    held = os.open(drafts[0], os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)  # as its writer does
    drop_drafts(tmp_path, deep=True)
    assert [draft.exists() for draft in drafts] == [True, False]
    os.close(held)
    drop_drafts(tmp_path, deep=True)
    assert sorted(os.listdir(tmp_path)) == before
    drop_drafts(tmp_path / "nowhere", deep=True)


@pytest.mark.parametrize("tensors", [False, True])
def test_a_writer_holds_its_draft(tmp_path: Path, tensors: bool) -> None:
    def write(draft: Path) -> None:
        if tensors:
            save_file({"w": torch.ones(2)}, draft)
        else:
            draft.write_text("whole")
        drop_drafts(tmp_path, deep=True)

    write_atomically(tmp_path / "file", write)
    assert (tmp_path / "file").exists() and os.listdir(tmp_path) == ["file"]


def test_a_draft_that_is_dropped_as_it_is_begun_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    original = fcntl.flock

    def flock(held: int, how: int) -> None:
        if how == fcntl.LOCK_EX and not dropped:  # a report comes between the folder and its lock
            dropped.append(1)
            drop_drafts(tmp_path, deep=True)
        original(held, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    write_text(tmp_path / "file", "whole")
    assert dropped and (tmp_path / "file").read_text() == "whole"


def test_what_a_killed_process_of_the_same_number_left_is_in_nobodys_way(tmp_path: Path) -> None:
    draft = (
        tmp_path / f".fedsim-file.{os.getpid()}.tmp"
    )  # process 7 of a container that starts again
    draft.mkdir()
    (draft / "file").write_text("half of someth")
    write_text(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole" and os.listdir(tmp_path) == ["file"]
