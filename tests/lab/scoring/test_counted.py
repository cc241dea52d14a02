"""Scores of what is in a whole batch: counted by hand, beside controls, with a verdict."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clients.corpus import clinic
from fedsim.lab.scoring import Scored, Scorer
from fedsim.lab.scoring.counted import WholeBatch
from fedsim.lab.scoring.scored import entry_of, samples_of
from fedsim.lab.store.attempts import AttackRecord
from fedsim.types import Reads, Tokens
from fedsim.vault.keys import own_key
from fedsim.vault.reader import Truth, VaultReader
from fedsim.vault.writer import VaultWriter
from tests.lab.attempts import attempt
from tests.lab.conftest import preset

ADAPTER = preset()
TEXTS = [text for text, _ in clinic()]
NONE: frozenset[int] = frozenset()


def tokens(*places: int) -> list[Tokens]:
    return [tuple(ADAPTER.tokenizer(TEXTS[place])["input_ids"]) for place in places]


BATCHES = {0: tokens(0, 50, 100, 150), 1: tokens(200, 250, 300, 350)}
OWN = tokens(400, 410, 420, 430)
LABELS = (0, 1, 1, 1)


def bag(texts: Sequence[Tokens]) -> Tokens:
    return tuple(token for text in texts for token in text)


def types(texts: Sequence[Tokens]) -> Tokens:
    return tuple(sorted(set(bag(texts))))


def test_types_count_once_tokens_as_often_as_they_are_there() -> None:
    known = Truth(sequences=((5, 5, 6), (6, 7, 1)), labels=(2, 2))
    once = WholeBatch.of(known, "types", frozenset({1}))
    # 5, 6, 7 are there; of the guess 5 and 7, not 9
    assert once.compared([(5, 9), (7, 5)]) == {
        "counted_precision": 2 / 3, "counted_recall": 2 / 3, "counted_f1": 2 / 3,
    }  # fmt: skip
    often = WholeBatch.of(known, "tokens", frozenset({1}))
    # 5 5 6 6 7 are there; 5, 6, 6 of the guess 5 6 6 6
    assert often.compared([(5, 6, 6, 6)]) == {
        "counted_precision": 3 / 4, "counted_recall": 3 / 5, "counted_f1": 6 / 9,
    }  # fmt: skip
    # no token of any text: the labels, whatever is special among tokens
    labels = WholeBatch.of(Truth(sequences=((5,), (6,)), labels=(1, 0)), "labels", frozenset({1}))
    assert labels.compared([(1, 1)])["counted_f1"] == 0.5
    assert once.compared([]) == {"counted_recall": 0.0, "counted_f1": 0.0}  # no precision of none


def test_nothing_known_is_not_scored() -> None:
    for known in (None, Truth(sequences=(), labels=()), Truth(sequences=((1,),), labels=(None,))):
        with pytest.raises(ValueError, match="needs a token or a label to be scored"):
            WholeBatch.of(known, "labels", NONE).compared([(1,)])


def test_chance_of_labels_is_that_of_drawing_them() -> None:
    whole = WholeBatch.of(Truth(sequences=((1,),), labels=(0,)), "labels", NONE)
    scores = whole.unrelated([(3,)], 1, (), 4, random.Random(1))
    assert set(scores) == {0.0, 1.0} and 0.15 < sum(scores) / len(scores) < 0.35  # 1 in 4


def test_chance_is_of_as_many_as_were_guessed() -> None:
    """By hand: of 20 unrelated ones 5 are there, so of 2 that are guessed a quarter is right."""
    whole = WholeBatch.of(Truth(sequences=(tuple(range(10)),), labels=(0,)), "types", NONE)
    pool = [tuple(range(5, 25))]
    scores = whole.unrelated([(0, 1)], 1, pool, 4, random.Random(1))
    one_right, two_right = 2 * 1 / 12, 2 * 2 / 12
    assert {round(score, 9) for score in scores} <= {0.0, round(one_right, 9), round(two_right, 9)}
    assert sum(scores) / len(scores) == pytest.approx(0.25 * two_right, abs=0.02)
    whole_pool = whole.unrelated([tuple(range(30))], 1, pool, 4, random.Random(1))
    assert set(whole_pool) == {2 * 5 / 30}  # no more than there are


@pytest.fixture
def vault(tmp_path: Path) -> VaultReader:
    for client, batch in BATCHES.items():
        VaultWriter(tmp_path, own_key().seal).note(1, client, batch, LABELS)
    return VaultReader(tmp_path)


def score(vault: VaultReader | None, *rows: AttackRecord, **more: Any) -> list[Scored]:
    usual: dict[str, Any] = {"pool": tuple(tokens(*range(440, 500))), "controls": True, "seed": 1}
    return scorer(vault, **{**usual, **more}).score(rows)


def scorer(vault: VaultReader | None, **fields: Any) -> Scorer:
    return Scorer(adapter=ADAPTER, vault=vault, **fields)


def said(client: int, rows: Sequence[Tokens], reads: Reads = "types", **more: Any) -> AttackRecord:
    return attempt(client, rows, attack="bag", reads=reads, **more)


def control(client: int, rows: Sequence[Tokens], reads: Reads = "types") -> AttackRecord:
    return said(client, rows, reads, role="positive", truth=OWN)


def test_a_bag_that_is_right_leaks_and_no_text_of_it_is_exact(vault: VaultReader) -> None:
    mine = said(0, [types(BATCHES[0])])
    own = control(0, [types(OWN)])
    (scored, other) = score(vault, mine, said(1, [types(BATCHES[1])]), own, control(1, []))
    entry = entry_of(scored)
    assert entry.metrics == dict.fromkeys(
        ("counted_precision", "counted_recall", "counted_f1"), 1.0
    )
    assert (entry.reads, entry.samples, scored.verdict) == ("types", 0, "leak")
    assert samples_of([scored]) == []
    assert entry.controls["positive"]["counted_f1"] == 1.0
    assert 0 < entry.controls["no_gradient"]["counted_f1"] < 0.8
    assert entry.controls["other_update"]["counted_f1"] < 0.8
    # the other client's control failed, so what was read there proves nothing
    assert other.verdict == "inconclusive" and "positive control" in other.reason


def test_silence_is_an_absence_only_where_the_control_works(vault: VaultReader) -> None:
    for own, verdict in (([types(OWN)], "no-leak"), ([], "inconclusive")):
        (scored,) = score(vault, said(0, []), control(0, own))
        assert scored.verdict == verdict


def test_few_labels_are_no_leak_where_chance_has_them_too(vault: VaultReader) -> None:
    mine = said(0, [LABELS], "labels")
    own = attempt(0, [(0, 1, 0, 1)], attack="bag", reads="labels", role="positive",
                  truth=[(0, 1, 0, 1)])  # fmt: skip
    (scored,) = score(vault, mine, own)
    assert scored.counted["counted_f1"] == 1.0
    assert scored.verdict == "inconclusive"  # of four labels of two kinds chance has all, too


def test_leakage_has_intervals_over_updates_and_those_figures_alone(vault: VaultReader) -> None:
    rows = [said(0, [types(BATCHES[0])]), said(1, [types(BATCHES[1])[::2]])]
    fields: dict[str, Any] = {"pool": tuple(tokens(*range(440, 500))), "controls": False, "seed": 1}
    leakage, verdicts = scorer(vault, **fields).leakage(score(vault, *rows, controls=False))
    assert set(leakage["bag"]) == {"counted_precision", "counted_recall", "counted_f1"}
    assert leakage["bag"]["counted_recall"].low < leakage["bag"]["counted_recall"].high
    assert verdicts["bag"].verdict == "inconclusive"  # without controls


def test_without_a_truth_there_is_none(vault: VaultReader) -> None:
    (scored,) = score(None, said(0, [types(BATCHES[0])]))
    assert not scored.counted and "no truth" in scored.reason
