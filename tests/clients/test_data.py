import math
import time
from pathlib import Path
from typing import Any

import datasets
import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from clients.corpus import clinic
from clients.data import DataSettings, load_corpus
from fedsim.errors import BadInput
from tests.clients.parts import parts_of

RAW = Path(__file__).parents[3] / "shared" / "data" / "datasets"
needs_raw = pytest.mark.skipif(not RAW.is_dir(), reason="needs the raw data sets in ../shared/data")


def raw(name: str, **options: Any) -> DataSettings:
    return DataSettings(name=name, path=str(RAW / name), **options)


def lines(file: str, encoding: str = "utf-8") -> list[str]:
    """The naive reading: the file's lines, ended by a line feed and by nothing else."""
    return (RAW / file).read_bytes().decode(encoding).removesuffix("\n").split("\n")


# The built-in corpus


def test_builtin_corpus_is_split_without_loss_or_overlap() -> None:
    corpus = load_corpus(DataSettings(name="builtin:clinic", evaluate=100), seed=3)
    both = [*corpus.train, *corpus.held_out]
    assert len(corpus.held_out) == 100
    assert sorted((row["text"], row["label"]) for row in both) == sorted(clinic())
    assert corpus.label_names == ("routine", "urgent")


def test_held_out_rows_follow_the_seed() -> None:
    settings = DataSettings(name="builtin:clinic", evaluate=20)
    first, again, other = (load_corpus(settings, seed).held_out["text"][:] for seed in (1, 1, 2))
    assert first == again
    assert first != other


# Named data sets: row counts are those of SOURCES.md, texts those of a naive reading


@needs_raw
def test_sst2_is_read_without_quoting() -> None:
    corpus = load_corpus(raw("sst2"), seed=1)
    expected = [line.rpartition("\t") for line in lines("sst2/train.tsv")[1:]]
    assert len(corpus.train) == 67_349
    assert corpus.train["text"][:] == [text.strip() for text, _, _ in expected]
    assert corpus.train["label"][:] == [int(label) for _, _, label in expected]
    assert corpus.label_names == ("negative", "positive")
    assert len(corpus.held_out) == 128
    dev = {line.rpartition("\t")[0].strip() for line in lines("sst2/dev.tsv")[1:]}
    assert set(corpus.held_out["text"]) <= dev


@needs_raw
def test_cola_is_read_without_header_and_quoting() -> None:
    corpus = load_corpus(raw("cola", evaluate=10_000), seed=1)
    expected = [line.split("\t") for line in lines("cola/in_domain_train.tsv")]
    assert len(corpus.train) == 8_551
    assert corpus.train["text"][:] == [cells[3].strip() for cells in expected]
    assert corpus.train["label"][:] == [int(cells[1]) for cells in expected]
    assert len(corpus.held_out) == 527  # all there are
    assert corpus.label_names == ("unacceptable", "acceptable")


@needs_raw
def test_cola_is_divided_by_the_publication_a_sentence_is_from() -> None:
    settings = raw("cola", partition="natural", partition_by="source", evaluate=0)
    source = [line.split("\t")[0] for line in lines("cola/in_domain_train.tsv")]
    parts = parts_of(load_corpus(settings, seed=1).train, settings, 3)
    assert [len(part) for part in parts] == [source.count(name) for name in sorted(set(source))[:3]]


@needs_raw
def test_rotten_tomatoes_is_cp1252_and_ends_lines_with_line_feeds_only() -> None:
    corpus = load_corpus(raw("rotten_tomatoes", evaluate=0), seed=1)
    halves = [lines(f"rotten_tomatoes/rt-polarity.{kind}", "cp1252") for kind in ("neg", "pos")]
    assert [len(half) for half in halves] == [5_331, 5_331]
    assert corpus.train["text"][:] == [line.strip() for half in halves for line in half]
    assert corpus.train["label"][:] == [0] * 5_331 + [1] * 5_331
    assert len(corpus.held_out) == 0
    assert any("…" in text for text in corpus.train["text"])  # 0x85 in cp1252


@needs_raw
def test_wikitext2_drops_headings_and_takes_valid_for_train() -> None:
    corpus = load_corpus(raw("wikitext2", evaluate=10_000), seed=1)
    for file, split in (("valid.txt", corpus.train), ("test.txt", corpus.held_out)):
        stripped = [line.strip() for line in lines(f"wikitext2/{file}")]
        prose = [text for text in stripped if text and not (text[0] == text[-1] == "=")]
        assert sorted(split["text"]) == sorted(prose)
    assert corpus.train.column_names == ["text"]
    assert corpus.label_names == ()


def test_wikitext2_with_its_train_file_holds_valid_out(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        text = f" \n = Title = \n \n A {split} line . \n = = Part = = \n"
        (tmp_path / f"{split}.txt").write_text(text)
    corpus = load_corpus(DataSettings(name="wikitext2", path=str(tmp_path)), seed=1)
    assert corpus.train["text"][:] == ["A train line ."]
    assert corpus.held_out["text"][:] == ["A valid line ."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "sst3"},
            "unknown data.name 'sst3'; did you mean 'sst2'.*known: builtin:clinic, ",
        ),
        ({"name": "builtin:clinc"}, r"did you mean 'builtin:clinic'\? \(known: builtin:clinic\)"),
        ({"name": "./none"}, r"a hub id is owner/name, a file ends in \.csv, \.tsv, "),
        ({"name": "~nobody-here/a.csv"}, "there is no file '~nobody-here/a.csv'"),
        ({"name": "none.csv"}, "data.name: there is no file 'none.csv'"),
        ({"name": "/"}, r"data.name must be a file of \.csv, .*\.json, .*\.parquet, got '/'"),
        ({"name": "cola", "path": "/none"}, "data.path must be a folder with in_domain_train.tsv,"),
        ({"name": "x.csv", "path": "y"}, "data.path is for a copy of cola, .*data.name = 'x.csv'"),
        ({"name": "cola", "partition": "dirichlett"}, "data.partition .*did you mean 'dirichlet'"),
        ({"name": "cola", "alpha": 0.0}, "data.alpha must be a positive number, got 0.0"),
        ({"name": "cola", "alpha": math.nan}, "data.alpha must be a positive number, got nan"),
        ({"name": "cola", "evaluate": -1}, "data.evaluate must be at least 0, got -1"),
        (
            {"name": "builtin:clinic", "evaluate": 504},
            "data.evaluate must be less than the 504 different texts of 'builtin:clinic', got 504",
        ),
        (
            {"name": "builtin:clinic", "text_column": "txt"},
            r"unknown data.text_column 'txt'; did you mean 'text'\? \(known: label, text\)",
        ),
        ({"name": "builtin:clinic", "label_column": "l"}, "unknown data.label_column 'l'"),
        (
            {"name": "builtin:clinic", "partition": "natural", "partition_by": "who"},
            "data.partition 'natural' .*data.partition_by = 'who', but the columns are text, label",
        ),
    ],
)
def test_settings_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        load_corpus(DataSettings(**options), seed=1)
    assert "\n" not in str(caught.value)


def test_copies_that_cannot_be_used(tmp_path: Path) -> None:
    sst2 = DataSettings(name="sst2", path=str(tmp_path))
    with pytest.raises(BadInput, match=r"data.path: there is no file '.*train\.tsv'"):
        load_corpus(sst2, seed=1)
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nfine\t1\n")
    (tmp_path / "train.tsv").write_text("sentence\tlabel\nbad\t0\ngood\t2\n")
    with pytest.raises(BadInput, match=r"'label' must be 0 to 1 \(negative, positive\), got 2"):
        load_corpus(sst2, seed=1)
    for kind in ("neg", "pos"):
        (tmp_path / f"rt-polarity.{kind}").write_bytes(b"na\x81ve\n")
    with pytest.raises(BadInput, match=r"data.path: .*neg' must be cp1252, got byte 0x81 at"):
        load_corpus(DataSettings(name="rotten_tomatoes", path=str(tmp_path)), seed=1)


# The hub, as it is without a network and as it would be with one


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("cola", "point data.path at a local copy"),
        ("nobody/nothing", "name a local file"),
    ],
)
def test_without_a_hub_one_line_comes_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, instead: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)  # waits are counted, not waited for
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(BadInput, match=f"data.name '{name}' did not come from .*; {instead}$"):
        load_corpus(DataSettings(name=name), seed=1)
    assert sum(slept) < 5.0  # refused at once, so what is slept is all that it takes
    assert datasets.config.HF_HUB_OFFLINE == before


FEATURES = datasets.Features(
    {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
)


def table(**columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def pretend_hub(
    monkeypatch: pytest.MonkeyPatch, splits: Any, failure: Exception | None = None
) -> list[tuple[Any, ...]]:
    """Let the hub answer with ``splits``, or with ``failure``; return the calls it will see."""
    calls: list[tuple[Any, ...]] = []

    def info(self: HfApi, repository: str, timeout: float) -> None:
        if failure:
            raise failure

    def load(*arguments: Any) -> Any:
        calls.append((*arguments, datasets.config.HF_HUB_OFFLINE))
        if isinstance(splits, Exception):
            raise splits
        return splits

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def test_a_hub_data_set_keeps_its_validation_split_and_class_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splits = {
        "train": table(sentence=["a", " ", "c"], label=[1, 0, 0]),
        "validation": table(sentence=["d", "e"], label=[1, 1]),
        "test": table(sentence=["f"], label=[-1]),
    }
    calls = pretend_hub(monkeypatch, splits)
    corpus = load_corpus(DataSettings(name="somebody/something"), seed=1)
    assert calls == [("somebody/something", None, False)]
    assert corpus.train[:] == {"text": ["a", "c"], "label": [1, 0]}
    assert sorted(corpus.held_out["text"]) == ["d", "e"]
    assert corpus.label_names == ("no", "yes")


def test_rows_of_a_split_of_its_own_follow_the_seed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    split = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(50)]})
    pretend_hub(monkeypatch, {"train": split, "validation": split})
    settings = DataSettings(name="somebody/something", evaluate=5)
    first, again, other = (load_corpus(settings, seed).held_out["text"][:] for seed in (1, 1, 2))
    assert len(set(first)) == 5
    assert first == again
    assert first != other


def test_a_named_data_set_has_the_same_names_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": table(sentence=["a", "b", "c"], label=[1, 0, 0])}
    calls = pretend_hub(monkeypatch, splits)
    corpus = load_corpus(DataSettings(name="sst2", evaluate=1), seed=1)
    assert calls == [("nyu-mll/glue", "sst2", False)]
    assert (len(corpus.train), len(corpus.held_out)) == (2, 1)
    assert corpus.label_names == ("negative", "positive")


def test_headings_are_dropped_from_the_hub_too(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", " = Title = \n", " A line . \n"]
    split = datasets.Dataset.from_dict({"text": texts})
    pretend_hub(monkeypatch, {"train": split, "validation": split})
    corpus = load_corpus(DataSettings(name="wikitext2"), seed=1)
    assert corpus.train["text"][:] == corpus.held_out["text"][:] == ["A line ."]


def test_without_a_hub_the_cache_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": table(sentence=["a"], label=[1])}
    calls = pretend_hub(monkeypatch, splits, failure=httpx.ConnectTimeout("timed out"))
    corpus = load_corpus(DataSettings(name="somebody/something", evaluate=0), seed=1)
    assert corpus.train["text"][:] == ["a"]
    assert calls == [("somebody/something", None, True)]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_hub_data_sets_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DataSettings(name="somebody/something", evaluate=0)
    response = httpx.Response(404, request=httpx.Request("GET", "http://hub.example"))
    pretend_hub(monkeypatch, {}, failure=RepositoryNotFoundError("none", response=response))
    with pytest.raises(BadInput, match="'somebody/something': the hub has no such data set"):
        load_corpus(settings, seed=1)
    pretend_hub(monkeypatch, ValueError("Config name is missing.\nPick one among: a, b"))
    with pytest.raises(BadInput, match=r"\(Config name is missing. Pick one among: a, b\); name"):
        load_corpus(settings, seed=1)
    pretend_hub(monkeypatch, {"part": table(sentence=["a"], label=[1])})
    with pytest.raises(BadInput, match="must have a train split, got part"):
        load_corpus(settings, seed=1)
    pretend_hub(monkeypatch, {"train": table(sentence=["a"], label=[-1])})
    with pytest.raises(BadInput, match=r"'label' must be 0 to 1 \(no, yes\), got -1"):
        load_corpus(settings, seed=1)
