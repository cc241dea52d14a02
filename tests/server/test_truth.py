"""A client notes its truth where it is, and in no message."""

import functools
import json
import logging
import pickle
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedsim.tap import TruthNotes
from fedsim.tap.truth import Notebook
from tests.server.tapped import message

NODE = 2**63 + 11


def context(node: int = NODE, run: int = 1) -> Context:
    return Context(run_id=run, node_id=node, node_config={}, state=RecordDict(), run_config={})


def answer(asked: Message) -> Message:
    asked.metadata.__dict__["_message_id"] = "1"
    return Message(RecordDict(), reply_to=asked)


def noted(root: Path) -> list[dict[str, Any]]:
    lines = (root / f"node={NODE}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def train(truth: TruthNotes, asked: Message, *note: Any) -> Message:
    def app(asked: Message, _: Context) -> Message:
        truth.note(*note)
        return answer(asked)

    return truth(asked, context(), app)


def test_texts_are_noted_by_round_and_node_for_this_user_alone(tmp_path: Path) -> None:
    truth = TruthNotes(tmp_path / "truth")
    reply = train(truth, message(5), ["été", "two"], [1, 0])
    assert not reply.content
    assert noted(truth.root) == [
        {"node": NODE, "round": 4, "text": "été", "label": 1},
        {"node": NODE, "round": 4, "text": "two", "label": 0},
    ]
    assert stat.S_IMODE((truth.root / f"node={NODE}.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE(truth.root.stat().st_mode) == 0o700


def test_rounds_that_no_message_says_are_counted(tmp_path: Path) -> None:
    truth = TruthNotes(tmp_path / "truth")
    for text in ("one", "two"):
        train(truth, message(5, content=RecordDict({"c": ConfigRecord({})})), [text])
    assert [(row["round"], row["text"]) for row in noted(truth.root)] == [(1, "one"), (2, "two")]


def test_they_are_counted_where_each_message_has_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a SuperNode starts them: nothing is kept but the client's state."""
    truth, other = tmp_path / "truth", tmp_path / "other"
    kept, silent = context(), RecordDict({"c": ConfigRecord({})})
    for text in ("one", "two", "three"):
        monkeypatch.setattr(Notebook, "_open", {})
        mod, beside = TruthNotes(truth), TruthNotes(other)  # a message counts once in each

        def app(asked: Message, _: Context, mod: TruthNotes = mod, text: str = text) -> Message:
            mod.note([text])
            return answer(asked)

        mod(message(5, content=silent), kept, functools.partial(beside, call_next=app))
    assert [(row["round"], row["text"]) for row in noted(truth)] == [
        (1, "one"), (2, "two"), (3, "three"),
    ]  # fmt: skip


def test_a_client_that_failed_was_asked_all_the_same(tmp_path: Path) -> None:
    """Flower drops the state of a client that raised; the process knows."""
    truth, silent = TruthNotes(tmp_path / "truth"), RecordDict({"c": ConfigRecord({})})

    def broken(_: Message, __: Context) -> Message:
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        truth(message(5, content=silent), context(), broken)
    train(truth, message(5, content=silent), ["two"])
    assert [row["round"] for row in noted(truth.root)] == [2]


@pytest.mark.parametrize("turned", [False, True])
def test_two_mods_of_other_prefixes_on_one_directory_note_what_either_waits_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, turned: bool
) -> None:
    pair = [TruthNotes(tmp_path / "truth"), TruthNotes(tmp_path / "truth", prefix="query.fit")]
    outer, inner = reversed(pair) if turned else pair

    def app(asked: Message, _: Context) -> Message:
        pair[0].note([asked.metadata.message_type])
        return answer(asked)

    def between(asked: Message, two: Context) -> Message:
        reply = inner(asked, two, app)
        if not asked.metadata.message_type.startswith(outer.prefix):
            outer.note(["late"])  # within a message that the outer one does not wait for
        return reply

    with caplog.at_level(logging.WARNING, logger="fedsim.tap"):
        for kind in ("train", "query.fit", "evaluate", "query.fit", "train"):
            asked = message(5, kind=kind, content=RecordDict({"c": ConfigRecord({})}))
            outer(asked, context(), between)
    assert not caplog.text
    assert [(row["round"], row["text"]) for row in noted(outer.root)] == [
        (1, "train"), (2, "query.fit"), (3, "query.fit"), (4, "train"),
    ]  # fmt: skip


def test_what_a_client_evaluates_on_is_no_truth(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mod of the whole app, and a note where data is loaded: twice a round, by two messages."""
    truth = TruthNotes(tmp_path / "truth")
    silent = RecordDict({"c": ConfigRecord({})})  # says no round, so that messages are counted
    with caplog.at_level(logging.WARNING, logger="fedsim.tap"):
        for kind, text in [("train", "one"), ("evaluate", "x"), ("train", "two"), ("query", "y")]:
            train(truth, message(5, kind=kind, content=silent), [text])
    assert [(row["round"], row["text"]) for row in noted(truth.root)] == [(1, "one"), (2, "two")]
    assert not caplog.text


@pytest.mark.parametrize(
    ("note", "line"),
    [
        ((["a", "b"], [0, None]), "wanted whole numbers as labels"),
        ((["a", "b"], [0, "a name"]), "wanted whole numbers as labels"),
        ((["a"], [1, 2]), "wanted a label for each"),
        (("a text",), "wanted a list of texts"),
    ],
)
def test_what_cannot_be_noted_is_said_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, note: tuple[Any, ...], line: str
) -> None:
    with caplog.at_level(logging.WARNING, logger="fedsim.tap"):
        train(TruthNotes(tmp_path / "truth"), message(5), *note)
    assert line in caplog.text and "a name" not in caplog.text
    assert not list(tmp_path.rglob("*.jsonl"))  # no half of a truth


def test_it_goes_to_where_clients_are(tmp_path: Path) -> None:
    """Ray pickles a client app, and its mods with it."""
    truth = pickle.loads(pickle.dumps(TruthNotes(tmp_path / "truth")))
    train(truth, message(5), ["a"])
    assert [row["text"] for row in noted(truth.root)] == ["a"]


def test_a_mod_that_was_pickled_and_the_apps_own_object_are_one_notebook(tmp_path: Path) -> None:
    """Ray unpickles the mods, and imports the module in which ``truth.note`` stands."""
    truth = TruthNotes(tmp_path / "truth")
    unpickled, silent = pickle.loads(pickle.dumps(truth)), RecordDict({"c": ConfigRecord({})})

    def app(asked: Message, _: Context) -> Message:
        truth.note(["a"])
        return answer(asked)

    unpickled(message(5, content=silent), context(), app)
    truth(message(5, content=silent), context(), app)
    assert [(row["round"], row["text"]) for row in noted(truth.root)] == [(1, "a"), (2, "a")]


def test_a_new_run_of_one_process_counts_from_one(tmp_path: Path) -> None:
    silent = RecordDict({"c": ConfigRecord({})})
    for run in (1, 2):
        truth = TruthNotes(tmp_path / str(run))

        def app(asked: Message, _: Context, truth: TruthNotes = truth) -> Message:
            truth.note(["a"])
            return answer(asked)

        same = TruthNotes(tmp_path / "same")  # a directory that two runs share, by mistake
        truth(message(5, content=silent), context(run=run), app)
        same(message(5, content=silent), context(run=run), lambda asked, _: answer(asked))
        assert [row["round"] for row in noted(truth.root)] == [1]
        assert same._book.counts[run, NODE] == 1


def test_a_mod_of_the_app_and_of_its_function_counts_once(tmp_path: Path) -> None:
    truth, silent = TruthNotes(tmp_path / "truth"), RecordDict({"c": ConfigRecord({})})

    def app(asked: Message, _: Context) -> Message:
        truth.note(["a"])
        return answer(asked)

    for _ in range(2):
        truth(message(5, content=silent), context(), lambda asked, two: truth(asked, two, app))
    assert [row["round"] for row in noted(truth.root)] == [1, 2]


def test_clients_that_train_at_once_note_their_own(tmp_path: Path) -> None:
    """Each waits within its message until the other is within its own."""
    truth, both = TruthNotes(tmp_path / "truth"), threading.Barrier(2, timeout=20)

    def client(node: int) -> None:
        def app(asked: Message, _: Context) -> Message:
            both.wait()
            truth.note([f"of {node}"])
            both.wait()
            return answer(asked)

        truth(message(5), context(node=node), app)

    threads = [threading.Thread(target=client, args=(node,)) for node in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for node in (1, 2):
        (line,) = (truth.root / f"node={node}.jsonl").read_text().splitlines()
        assert json.loads(line)["text"] == f"of {node}"


def test_a_directory_is_one_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "truth")
    mod, silent = TruthNotes(tmp_path / "link"), RecordDict({"c": ConfigRecord({})})
    own = TruthNotes("x/../truth")

    def app(asked: Message, _: Context) -> Message:
        own.note(["a"])
        return answer(asked)

    mod(message(5, content=silent), context(), app)
    assert [row["round"] for row in noted(own.root)] == [1]


def test_messages_that_train_under_another_name_are_noted(tmp_path: Path) -> None:
    truth = pickle.loads(pickle.dumps(TruthNotes(tmp_path / "truth", prefix="query.fit")))
    train(truth, message(5, kind="query.fit"), ["a"])
    train(truth, message(5, kind="train"), ["b"])
    assert [row["text"] for row in noted(truth.root)] == ["a"]


def test_a_note_outside_of_a_round_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="fedsim.tap"):
        TruthNotes(tmp_path / "truth").note(["a"])
    assert "has this object as its mod" in caplog.text


def test_a_fault_of_the_client_is_its_own(tmp_path: Path) -> None:
    def broken(_: Message, __: Context) -> Message:
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        TruthNotes(tmp_path / "truth")(message(5), context(), broken)


def test_a_directory_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, logger="fedsim.tap"):
        train(TruthNotes(tmp_path / "file" / "truth"), message(5), ["a"])
    assert "no truth is noted" in caplog.text
