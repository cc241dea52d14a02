"""Who an attack is asked about, and a run from its config to its report."""

from pathlib import Path

import pytest
import torch

from clients.data import DataSettings, load_corpus
from fedsim.errors import BadInput
from fedsim.lab.display import Silent
from fedsim.lab.report import write_report
from fedsim.lab.run.candidates import FEWEST, Reserve, question
from fedsim.lab.run.experiment import run_experiment
from fedsim.lab.run.prepare import prepare
from fedsim.lab.store.run import RunDirectory
from fedsim.messages import Texts
from tests.attacks.conftest import random_texts
from tests.lab.conftest import experiment, preset


def texts(count: int, seed: int = 0) -> Texts:
    rows = random_texts(preset(), tuple(6 + row % 5 for row in range(count)), seed)
    return Texts(sequences=tuple(rows), labels=tuple(row % 2 for row in range(count)))


def test_what_was_set_aside_is_divided_without_overlap() -> None:
    some = texts(200)
    made = Reserve.of(some, seed=3)
    rows = [*made.own.sequences, *made.public.sequences, *made.outsiders.sequences]
    assert sorted(rows) == sorted(some.sequences)
    assert [len(part) for part in (made.own, made.public, made.outsiders)] == [40, 100, 60]
    with pytest.raises(BadInput, match=f"wants {FEWEST} texts or more .* got 119"):
        Reserve.of(some.take(range(119)), seed=3)


def test_the_attacker_has_as_many_texts_as_a_client_where_there_are_enough() -> None:
    some = texts(200)
    assert len(Reserve.of(some, seed=3, examples=50).own) == 50
    most = Reserve.of(some, seed=3, examples=150)
    assert [len(part) for part in (most.own, most.public, most.outsiders)] == [60, 100, 40]
    twice = Reserve.of(some.and_(some.take(range(80))), seed=3)
    assert sum(map(len, (twice.own, twice.public, twice.outsiders))) == 200  # none twice


def test_a_text_that_a_client_holds_twice_is_asked_about_once() -> None:
    reserve, members = Reserve.of(texts(200), seed=3), texts(9, seed=1)
    again = members.and_(members.take([0, 3]))
    made = question(preset(), again, texts(2, seed=2), reserve, torch.Generator().manual_seed(0))
    asked = [made.candidates.sequences[place] for place, one in enumerate(made.asked)
             if one.kind == "member"]  # fmt: skip
    assert sorted(asked) == sorted(members.sequences)


def test_a_question_holds_each_kind_and_tells_no_attack_which_is_which() -> None:
    reserve, members = Reserve.of(texts(200), seed=3), texts(9, seed=1)
    others = texts(7, seed=2).and_(members.take([4]))  # a text that two clients hold
    made = question(preset(), members, others, reserve, torch.Generator().manual_seed(0))
    kinds = [asked.kind for asked in made.asked]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "member": 9, "outsider": 60, "other": 7, "twin": 9,
    }  # fmt: skip
    for asked, tokens in zip(made.asked, made.candidates.sequences, strict=True):
        if asked.kind == "member":
            assert tokens == members.sequences[asked.row]
        if asked.kind == "outsider":
            assert tokens == reserve.outsiders.sequences[asked.row]
        if asked.kind == "twin":
            like = members.sequences[asked.row]
            assert sum(a != b for a, b in zip(tokens, like, strict=True)) == 1
    assert kinds != sorted(kinds) and kinds[:9] != ["member"] * 9


def test_no_client_holds_what_is_set_aside() -> None:
    data = DataSettings(name="builtin:clinic", evaluate=16, reserve=150)
    corpus = load_corpus(data, seed=1)
    assert corpus.reserved is not None and len(corpus.reserved) > 100
    aside = set(corpus.reserved["text"][:])
    assert len(aside) == len(corpus.reserved)  # none twice
    assert not aside & {*corpus.train["text"][:], *corpus.held_out["text"][:]}
    without = load_corpus(DataSettings(name="builtin:clinic", evaluate=16), seed=1)
    assert without.held_out["text"][:] == corpus.held_out["text"][:]


@pytest.mark.slow
def test_a_run_says_who_was_recognised(tmp_path: Path) -> None:
    config = experiment(
        federation={"clients": 3, "clients_per_round": 2, "rounds": 1},
        training={"batch_size": 4}, attack=["membership"],
    )  # fmt: skip
    run = RunDirectory(tmp_path / "run")
    run.create(config)
    summary, _ = run_experiment(prepare(config), run, Silent())
    assert summary.verdicts["membership"].verdict == "leak"
    figures = summary.leakage["membership"]
    assert figures["tpr"].mean > 0.9 and figures["fpr"].mean < 0.05 and figures["auc"].mean > 0.95
    for entry in summary.attacks:
        assert entry.candidates > 50 and entry.samples == 0
        assert entry.controls["other_update"]["tpr"] < 0.3 > entry.controls["own_update"]["tpr"]
        assert entry.controls["positive"]["tpr"] > 0.9
        assert entry.knowledge == {"candidates": True, "public": True}
    records = run.attempts()
    assert all(record.asked and not record.truth for record in records)
    page = write_report(run.root, redact=False).read_text(encoding="utf-8")
    assert "Who was recognised" in page and "leaks who took part" in page
