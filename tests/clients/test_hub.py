"""The hub when it does not answer: what the cache has, and what is said where it has nothing.

What is in the cache was put there by `datasets`, or lies as huggingface_hub documents it.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

import clients.hub
import fedsim.hub
from clients.data import DataSettings, load_corpus
from fedsim.errors import BadInput

TEXTS = ["one", "two", "three"]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache, which nothing is in, and no hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path


def jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def prepare(folder: Path, configuration: str) -> None:
    """Have `datasets` prepare some texts, and put them where it puts a hub's data set."""
    made = datasets.load_dataset("json", data_files=str(jsonl(folder / "raw.jsonl")))["train"]
    home = Path(made.cache_files[0]["filename"]).parent
    place = folder / "datasets" / "somebody___some_thing" / configuration / "0.0.0" / "abc"
    place.mkdir(parents=True)
    info = json.loads((home / "dataset_info.json").read_text())
    info |= {"config_name": configuration, "dataset_name": "some_thing"}
    (place / "dataset_info.json").write_text(json.dumps(info))
    (home / "json-train.arrow").rename(place / "some_thing-train.arrow")
    for left in (folder / "datasets" / "json").glob("*"):
        left.rename(folder / f"used-{configuration}")


def test_what_datasets_has_prepared_is_read(folder: Path) -> None:
    prepare(folder, "default")
    corpus = load_corpus(DataSettings(name="somebody/some_thing", evaluate=0), seed=1)
    assert corpus.train["text"][:] == TEXTS


def test_what_was_downloaded_is_read(folder: Path) -> None:
    home = folder / "hub" / "datasets--somebody--other"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    (home / "snapshots" / "abc").mkdir(parents=True)
    jsonl(home / "snapshots" / "abc" / "train.jsonl")
    corpus = load_corpus(DataSettings(name="somebody/other", evaluate=0), seed=1)
    assert corpus.train["text"][:] == TEXTS


def test_what_cannot_be_told_from_the_cache_is_said(folder: Path) -> None:
    prepare(folder, "first")
    prepare(folder, "second")
    with pytest.raises(BadInput, match=r"nor from the cache .*multiple 'some.*thing' config"):
        load_corpus(DataSettings(name="somebody/some_thing"), seed=1)


def test_an_empty_cache_is_named_with_the_words_that_move_it(folder: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load_corpus(DataSettings(name="somebody/nothing"), seed=1)
    assert str(caught.value) == (
        "data.name 'somebody/nothing' did not come from the hub (HF_HUB_OFFLINE is set, so it was "
        f"not asked), nor from the cache: {folder}/datasets and {folder}/hub, which HF_HOME moves; "
        "name a local file"
    )


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that lets anybody call, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.slow
def test_a_hub_that_says_nothing_is_asked_once_and_briefly(
    monkeypatch: pytest.MonkeyPatch, silent: socket.socket
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
    )
    monkeypatch.setattr(fedsim.hub, "PATIENCE", 3)
    with pytest.raises(BadInput, match=r"did not answer within 3 s; with HF_HUB_OFFLINE=1 it is"):
        load_corpus(DataSettings(name="somebody/nothing"), seed=1)
    silent.accept()[0].close()
    with pytest.raises(BlockingIOError):
        silent.accept()  # nobody else has called
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_name_server_that_says_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, over = threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> None:
        asked.set()
        over.wait(60)
        raise OSError("too late")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://hub.example")
    monkeypatch.setattr(fedsim.hub, "PATIENCE", 0.3)
    monkeypatch.setattr(clients.hub, "PATIENCE", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    started = time.monotonic()
    with pytest.raises(BadInput, match=r"the hub did not answer within 0.3 s"):
        load_corpus(DataSettings(name="somebody/nothing"), seed=1)
    assert asked.is_set() and time.monotonic() - started < 30  # of the 60
    over.set()


def test_what_is_raised_while_asking_is_raised_here() -> None:
    def refuse() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        fedsim.hub.ask(refuse)
    fedsim.hub.ask(lambda: None)
