import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clients.corpus import clinic
from fedsim.lab.scoring import Scored, Scorer
from fedsim.lab.scoring.scored import entry_of, samples_of
from fedsim.lab.store.attempts import AttackRecord
from fedsim.models import ModelAdapter
from fedsim.types import Tokens
from fedsim.vault.keys import own_key
from fedsim.vault.reader import VaultReader
from fedsim.vault.writer import VaultWriter
from tests.lab.attempts import attempt
from tests.lab.conftest import preset

ADAPTER = preset()
TEXTS = [text for text, _ in clinic()]


def tokens(*places: int, adapter: ModelAdapter = ADAPTER) -> list[Tokens]:
    return [tuple(adapter.tokenizer(TEXTS[place])["input_ids"]) for place in places]


BATCHES = {0: tokens(0, 50, 100, 150), 1: tokens(200, 250, 300, 350), 2: tokens(20, 70, 120, 170)}
OWN = tokens(400, 410, 420, 430)  # what the positive control is made of
POOL = tuple(tokens(*range(440, 500)))


def positive(
    sequences: Sequence[Tokens] = tuple(OWN), client: int = 0, **more: Any
) -> AttackRecord:
    return attempt(client, sequences, role="positive", truth=OWN, **more)


ALL = [positive(client=client) for client in BATCHES]  # each update has its own


@pytest.fixture
def vault(tmp_path: Path) -> VaultReader:
    for client, batch in BATCHES.items():
        VaultWriter(tmp_path, own_key().seal).note(1, client, batch, [0, 1, 0, 1])
    return VaultReader(tmp_path)


def scorer(vault: VaultReader | None, **changes: Any) -> Scorer:
    usual: dict[str, Any] = {"adapter": ADAPTER, "pool": POOL, "controls": True, "seed": 1}
    return Scorer(vault=vault, **{**usual, **changes})


def score(vault: VaultReader | None, *rows: AttackRecord, **changes: Any) -> list[Scored]:
    return scorer(vault, **changes).score(rows)


def metrics(scored: Scored) -> dict[str, float]:
    return entry_of(scored).metrics


# Figures, counted by hand


def test_a_perfect_guess_in_any_order(vault: VaultReader) -> None:
    for order in list(itertools.permutations(BATCHES[0]))[::5]:
        (scored,) = score(vault, attempt(0, order))
        # exact_match, token_accuracy, bag_f1, precision are fractions, ROUGE is x 100
        expected = dict.fromkeys(("exact_match", "token_accuracy", "bag_f1", "precision"), 1.0)
        assert metrics(scored) == expected | dict.fromkeys(("rouge1", "rouge2", "rougeL"), 100.0)


@pytest.mark.parametrize("error", [None, "the update is malformed"])
def test_nothing_found_counts_as_zeros(vault: VaultReader, error: str | None) -> None:
    (scored,) = score(vault, attempt(0, [], error=error))
    figures = metrics(scored)
    assert len(figures) == 6 and "precision" not in figures  # of no guess none is right or wrong
    assert set(figures.values()) == {0.0}
    assert (entry_of(scored).samples, entry_of(scored).guesses) == (4, 0)


def test_a_sample_that_was_not_found_counts_as_zero(vault: VaultReader) -> None:
    (scored,) = score(vault, attempt(0, BATCHES[0][1:3]))
    figures = metrics(scored)
    # two of four, each whole; both of the two that were said
    assert figures["exact_match"] == figures["token_accuracy"] == figures["bag_f1"] == 0.5
    assert figures["rouge1"] == 50.0
    assert figures["precision"] == 1.0


def test_surplus_guesses_cost_precision_alone(vault: VaultReader) -> None:
    (scored,) = score(vault, attempt(0, [*BATCHES[0], *OWN[:2]]))
    figures = metrics(scored)
    assert entry_of(scored).guesses == 6
    assert figures["exact_match"] == 1.0
    assert figures["precision"] == pytest.approx(4 / 6)


def test_guesses_that_were_dropped_are_wrong_and_are_told(vault: VaultReader) -> None:
    (scored,) = score(vault, attempt(0, [*BATCHES[0], *OWN[:2]], dropped=10))
    figures = metrics(scored)
    assert figures["exact_match"] == 1.0 and entry_of(scored).guesses == 16
    assert figures["precision"] == pytest.approx(4 / 16)
    (note,) = [note for note in scorer(vault).notes([scored]) if "guesses" in note]
    assert note.startswith("dager put out more than 10,000 guesses on an update: 10 were not")


def test_a_wrong_token_counts_for_its_own_sample(vault: VaultReader) -> None:
    wrong = next(t for t in range(500, 2000) if all(t not in text for text in BATCHES[0]))
    first = BATCHES[0][0]
    guess = [(*first[:-1], wrong), *BATCHES[0][1:]]
    (scored,) = score(vault, attempt(0, guess))
    figures, share = metrics(scored), (len(first) - 1) / len(first)
    assert figures["exact_match"] == 0.75
    assert figures["token_accuracy"] == pytest.approx((3 + share) / 4)
    assert figures["bag_f1"] == pytest.approx((3 + share) / 4)  # as many tokens on both sides


@pytest.mark.parametrize("name", ["llama-tiny", "bert-tiny"])
def test_special_tokens_are_dropped_on_both_sides(tmp_path: Path, name: str) -> None:
    adapter = preset(name)
    texts = tokens(0, 50, adapter=adapter)  # with <s>, or [CLS] and [SEP]
    bare = [tuple(t for t in text if t not in adapter.special) for text in texts]
    assert all(len(b) < len(t) for b, t in zip(bare, texts, strict=True))
    VaultWriter(tmp_path, own_key().seal).note(1, 0, texts, [0, 1])
    only_special = tuple(sorted(adapter.special))[:2]
    (scored,) = score(VaultReader(tmp_path), attempt(0, [*bare, only_special]), adapter=adapter)
    assert [s["exact_match"] for s in scored.samples] == [1.0, 1.0]
    assert scored.guesses == 2  # a guess of special tokens says nothing
    # Nor do they help: else every guess would share two or three tokens with every truth.
    (none,) = score(VaultReader(tmp_path), attempt(0, [only_special] * 2), adapter=adapter)
    assert [s["bag_f1"] for s in none.samples] == [0.0, 0.0]


def test_the_last_token_of_next_token_prediction_is_told_apart(vault: VaultReader) -> None:
    adapter = preset(task="causal-lm")
    (scored,) = score(vault, attempt(0, [t[:-1] for t in BATCHES[0]]), adapter=adapter)
    assert [s["exact_match"] for s in scored.samples] == [0.0] * 4
    assert [s["exact_match_but_last"] for s in scored.samples] == [1.0] * 4
    assert (metrics(scored)["precision"], metrics(scored)["precision_but_last"]) == (0.0, 1.0)
    assert any("last token" in note for note in scorer(vault, adapter=adapter).notes([scored]))
    (plain,) = score(vault, attempt(0, BATCHES[0]))
    assert "exact_match_but_last" not in plain.samples[0]


def test_leakage_is_the_mean_over_samples_with_its_interval(vault: VaultReader) -> None:
    rows = [attempt(0, BATCHES[0]), attempt(1, []), attempt(2, BATCHES[2][:2]), positive()]
    leakage, verdicts = scorer(vault).leakage(score(vault, *rows))
    exact = leakage["dager"]["exact_match"]
    assert exact.mean == 0.5  # (4 + 0 + 2) / 12
    assert 0.0 <= exact.low < 0.5 < exact.high <= 1.0
    assert verdicts["dager"].updates == 3
    assert verdicts["dager"].samples == 12


def test_precision_is_over_all_guesses(vault: VaultReader) -> None:
    rows = [attempt(0, BATCHES[0]), attempt(1, []), attempt(2, POOL[:12])]
    scores = score(vault, *rows)
    precision = scorer(vault).leakage(scores)[0]["dager"]["precision"]
    assert precision.mean == 4 / 16  # of 4 + 0 + 12 guesses
    assert 0.0 <= precision.low < 0.25 < precision.high <= 1.0
    assert [sample.precision for sample in samples_of(scores)] == [1.0] * 4 + [None] * 4 + [0.0] * 4
    assert [sample.guesses for sample in samples_of(scores)] == [4] * 4 + [0] * 4 + [12] * 4


def test_a_guess_at_an_empty_batch_is_wrong(tmp_path: Path) -> None:
    VaultWriter(tmp_path, own_key().seal).note(1, 0, [], [])
    (scored,) = score(VaultReader(tmp_path), attempt(0, BATCHES[0][:3]))
    assert (metrics(scored), scored.guesses) == ({"precision": 0.0}, 3)


def test_the_same_guess_twice_is_right_once(vault: VaultReader) -> None:
    (scored,) = score(vault, attempt(0, [BATCHES[0][0]] * 3))
    assert metrics(scored)["precision"] == 1 / 3


def emoji_vault(root: Path, *texts: str) -> VaultReader:
    ids = [tuple(ADAPTER.tokenizer(text)["input_ids"]) for text in texts]
    VaultWriter(root, own_key().seal).note(1, 0, ids, [0] * len(ids))
    return VaultReader(root)


def test_texts_without_words_are_in_no_rouge(tmp_path: Path) -> None:
    vault = emoji_vault(tmp_path, "!!! ???", "Мама мыла раму.", "Да", "...")
    truth = vault.truth(1, 0)
    assert truth is not None
    scores = score(vault, attempt(0, truth.sequences[:3]), positive())
    entry = entry_of(scores[0])
    leakage, verdicts = scorer(vault).leakage(scores)
    assert entry.metrics["exact_match"] == 0.75
    assert entry.metrics["rouge1"] == leakage["dager"]["rouge1"].mean == 100.0  # of two texts
    assert entry.metrics["rouge2"] == leakage["dager"]["rouge2"].mean == 50.0  # one has no pair
    assert (entry.wordless, entry.count("rouge1"), entry.count("bag_f1")) == (2, 2, 4)
    assert verdicts["dager"].silent == {"rouge1": 2, "rouge2": 3, "rougeL": 2}
    assert any(note.startswith("2 of 4 texts have no word") for note in scorer(vault).notes(scores))


def test_an_update_without_a_word_has_no_rouge(tmp_path: Path) -> None:
    vault = emoji_vault(tmp_path, "!!! ???", "...")
    scores = score(vault, attempt(0, []), positive())
    leakage, _ = scorer(vault).leakage(scores)
    assert set(leakage["dager"]) == {"exact_match", "token_accuracy", "bag_f1"}
    assert set(entry_of(scores[0]).controls["no_gradient"]) == set(leakage["dager"])
    assert [set(sample.metrics) for sample in samples_of(scores)] == [set(leakage["dager"])] * 2


def test_no_metric_of_one_update_is_certain(vault: VaultReader) -> None:
    leakage, verdicts = scorer(vault).leakage(score(vault, attempt(0, []), positive()))
    assert set(leakage["dager"]) == {
        "exact_match", "token_accuracy", "bag_f1", "rouge1", "rouge2", "rougeL",
    }  # fmt: skip
    for name, mean in leakage["dager"].items():
        most = 100.0 if name.startswith("rouge") else 1.0
        # Wilson for 0 of 4 samples: 1.96^2 / (4 + 1.96^2) = 0.4899
        assert (mean.mean, mean.low) == (0.0, 0.0)
        assert mean.high == pytest.approx(0.4899 * most, rel=1e-4)
    assert verdicts["dager"].verdict == "no-leak"  # its own interval is not so wide


def test_attacks_are_counted_apart(vault: VaultReader) -> None:
    rows = [attempt(0, BATCHES[0]), attempt(0, [], attack="lamp"), positive(), positive(attack="x")]
    leakage, verdicts = scorer(vault).leakage(score(vault, *rows))
    assert leakage["dager"]["exact_match"].mean == 1.0
    assert leakage["lamp"]["exact_match"].mean == 0.0
    assert list(verdicts) == ["dager", "lamp"]


# Controls


def test_the_other_update_is_another_clients_guess(vault: VaultReader) -> None:
    rows = [attempt(0, BATCHES[0]), attempt(1, BATCHES[0][:2])]  # what was read of 1 is half of 0's
    first, second = score(vault, *rows)
    assert first.controls["other_update"]["exact_match"] == 0.5
    assert second.controls["other_update"]["exact_match"] == 0.0


def test_a_lone_client_has_the_positive_control_as_its_other_update(vault: VaultReader) -> None:
    (scored,) = score(vault, attempt(0, BATCHES[0]), positive(BATCHES[0][:1]))
    assert scored.controls["other_update"]["exact_match"] == 0.25
    assert scored.controls["positive"]["exact_match"] == 0.0  # against its own truth


def test_the_no_gradient_control_scores_unrelated_sentences(vault: VaultReader) -> None:
    (scored,) = score(vault, attempt(0, BATCHES[0]))
    chance = scored.controls["no_gradient"]
    assert chance["exact_match"] == 0.0
    assert 0.02 < chance["bag_f1"] < 0.5  # full stops, names of medicines: well above zero
    (same,) = score(vault, attempt(0, BATCHES[0]), pool=tuple(BATCHES[0]))
    # A pool of the truths themselves: four draws out of four; a truth is missed with (3/4)^4.
    hit = same.controls["no_gradient"]["exact_match"]
    assert 0.4 < hit < 0.95  # 1 - (3/4)^4 = 0.68 of the truths are drawn, five draws of four


def test_the_control_is_drawn_by_the_seed(vault: VaultReader) -> None:
    first, again = (score(vault, attempt(0, []))[0].chance for _ in range(2))
    assert first == again
    assert score(vault, attempt(0, []), seed=2)[0].chance != first


# Verdicts


def verdict(vault: VaultReader | None, *rows: AttackRecord, **changes: Any) -> tuple[str, str]:
    _, verdicts = scorer(vault, **changes).leakage(score(vault, *rows, **changes))
    return verdicts["dager"].verdict, verdicts["dager"].reason


def test_leak_and_no_leak(vault: VaultReader) -> None:
    full = [attempt(client, batch) for client, batch in BATCHES.items()]
    nothing = [attempt(client, []) for client in BATCHES]
    assert verdict(vault, *full, *ALL)[0] == "leak"
    assert verdict(vault, *nothing, *ALL)[0] == "no-leak"
    assert score(vault, attempt(0, BATCHES[0]), positive())[0].verdict == "leak"
    assert score(vault, attempt(0, []), positive())[0].verdict == "no-leak"


def test_guessing_likely_words_is_no_leak(vault: VaultReader) -> None:
    chance = random.Random(3)
    lucky = [attempt(client, chance.sample(POOL, 4)) for client in BATCHES]
    assert verdict(vault, *lucky, *ALL)[0] == "no-leak"


def test_many_guesses_are_compared_with_as_many_of_chance(vault: VaultReader) -> None:
    # Among many unrelated sentences some are near: that is chance, and no leak.
    blind = [attempt(client, POOL) for client in BATCHES]
    assert verdict(vault, *blind, *ALL)[0] == "no-leak"


def test_a_mean_does_not_hide_the_one_client_that_was_read(vault: VaultReader) -> None:
    rows = [attempt(0, BATCHES[0]), attempt(1, []), attempt(2, [])]
    said, reason = verdict(vault, *rows, *ALL)
    assert said == "leak"
    assert reason.startswith("4 of 12 samples were read exactly")


def test_a_mean_does_not_hide_the_one_client_that_was_nearly_read(vault: VaultReader) -> None:
    nearly = [(*ids[:-1], ids[-2]) for ids in BATCHES[0]]
    said, reason = verdict(vault, attempt(0, nearly), attempt(1, []), attempt(2, []), *ALL)
    assert said == "leak"
    assert "client 0" in reason or "above" in reason


def test_one_update_without_a_working_control_forbids_no_leak(vault: VaultReader) -> None:
    nothing = [attempt(client, []) for client in BATCHES]
    broken = [positive(client=0), positive(client=1), positive((), client=2)]
    said, reason = verdict(vault, *nothing, *broken)
    assert said == "inconclusive"
    assert "client 2" in reason or "positive control" in reason


@pytest.mark.parametrize(
    ("rows", "changes", "reason"),
    [
        (
            [attempt(0, BATCHES[0]), positive()],
            {"controls": False},
            "controls were skipped",
        ),  # --quick
        ([attempt(0, []), positive([])], {}, "positive control"),  # the attack is broken
        ([attempt(0, []), positive(BATCHES[1])], {}, "positive control"),  # it says something else
        ([attempt(0, [])], {}, "no positive control"),
        ([attempt(0, [], error="no q, k, v"), positive()], {}, "could not run: no q, k, v"),
        ([attempt(5, BATCHES[0]), positive()], {}, "no truth"),  # a client the vault does not know
    ],
)
def test_what_proves_nothing_is_inconclusive(
    vault: VaultReader, rows: list[AttackRecord], changes: dict[str, Any], reason: str
) -> None:
    said, why = verdict(vault, *rows, **changes)
    assert said == "inconclusive"
    assert reason in why
    (scored,) = score(vault, *rows, **changes)
    assert scored.verdict == "inconclusive"
    assert scored.reason


def test_without_a_vault_nothing_is_scored(vault: VaultReader) -> None:
    rows = [attempt(0, BATCHES[0]), positive()]
    said, why = verdict(None, *rows)
    assert (said, "no truth" in why) == ("inconclusive", True)
    (scored,) = score(None, *rows)
    entry = entry_of(scored)
    assert (entry.samples, entry.metrics) == (0, {})  # no zeros for what is not known
    assert scorer(None).leakage([scored])[0] == {"dager": {}}


def test_one_error_among_nothing_found_is_inconclusive(vault: VaultReader) -> None:
    rows = [attempt(0, []), attempt(1, [], error="broken"), attempt(2, []), positive()]
    assert verdict(vault, *rows) == ("inconclusive", "The attack could not run: broken.")


def test_reading_a_client_and_not_oneself_is_no_leak(vault: VaultReader) -> None:
    """A plugin that has the text from elsewhere reads it, and fails where there is no elsewhere."""
    full = [attempt(client, batch) for client, batch in BATCHES.items()]
    blind = [positive([], client=client) for client in BATCHES]
    said, why = verdict(vault, *full, *blind)
    assert said == "inconclusive"
    assert "12 of 12 samples were read exactly" in why and "failed its own positive control" in why
    said, why = verdict(vault, *full, *(positive([], client=c, error="broken") for c in BATCHES))
    assert said == "inconclusive"
    assert "12 of 12" in why and "could not run on its positive control: broken" in why
    assert verdict(vault, *full)[0] == "leak"  # no control was run
    assert verdict(vault, *full, *blind[:2], positive(OWN[:1], client=2))[0] == "leak"


def test_an_attack_that_gave_up_shows_no_absence(vault: VaultReader) -> None:
    whole = [attempt(client, []) for client in BATCHES]
    assert verdict(vault, *whole, *ALL)[0] == "no-leak"
    stopped = [attempt(0, [], diagnostics={"cut": True}), *whole[1:]]
    said, why = verdict(vault, *stopped, *ALL)
    assert said == "inconclusive" and "gave up at its own limits" in why
    blurred = [attempt(0, [], diagnostics={"unread": True}), *whole[1:]]
    said, why = verdict(vault, *blurred, *ALL)
    assert said == "inconclusive" and "it could not read" in why
    leaky = [attempt(client, batch, diagnostics={"cut": True}) for client, batch in BATCHES.items()]
    assert verdict(vault, *leaky, *ALL)[0] == "leak"


def test_an_error_does_not_hide_a_leak(vault: VaultReader) -> None:
    rows = [
        attempt(0, BATCHES[0]),
        attempt(1, BATCHES[1]),
        attempt(2, [], error="broken"),
        positive(),
    ]
    scores = score(vault, *rows)
    assert [scored.verdict for scored in scores] == ["leak", "leak", "inconclusive"]
    assert "an attack could not run: broken" in scorer(vault).notes(scores)[-1]


# Order


def test_the_order_of_clients_does_not_matter(vault: VaultReader) -> None:
    rows = [attempt(0, BATCHES[0]), attempt(1, BATCHES[1][:1]), attempt(2, []), positive()]
    results = []
    for order in list(itertools.permutations(rows))[::5]:
        scores = score(vault, *order)
        entries = {scored.attempt.client: entry_of(scored) for scored in scores}
        leakage, verdicts = scorer(vault).leakage(scores)
        means = {name: round(mean.mean, 12) for name, mean in leakage["dager"].items()}
        chance = {client: entry.controls["no_gradient"] for client, entry in entries.items()}
        figures = {client: entry.metrics for client, entry in entries.items()}
        results.append((means, figures, chance, verdicts["dager"].verdict))
    assert all(result == results[0] for result in results)


def test_scores_come_in_the_order_of_the_rows(vault: VaultReader) -> None:
    rows = [attempt(2, []), positive(), attempt(0, []), attempt(1, [])]
    assert [scored.attempt.client for scored in score(vault, *rows)] == [2, 0, 1]


def test_the_entry_is_that_of_the_contract(vault: VaultReader) -> None:
    (scored,) = score(vault, attempt(0, BATCHES[0]), positive())
    entry = entry_of(scored)
    # design.md, section 6, summary.json
    wanted = "attack settings knowledge round client samples seconds verdict metrics controls"
    assert set(wanted.split()) <= set(entry.as_dict())
    assert set(entry.controls) == {"no_gradient", "other_update", "positive"}
    assert (entry.round, entry.client, entry.seconds) == (1, 0, 0.5)
    assert entry.settings == {"max_pairs": 5}


def test_a_word_that_chance_has_takes_nothing_from_a_text_that_was_read(tmp_path: Path) -> None:
    word = tokens(0)[0][:1]
    batch = [*tokens(0, 50, 100), word]
    VaultWriter(tmp_path, own_key().seal).note(1, 0, batch, [0, 1, 0, 1])
    rows = [attempt(0, batch[:1]), positive()]
    (scored, *_) = score(VaultReader(tmp_path), *rows, pool=(word, *POOL[:3]))
    assert scored.controls["no_gradient"]["exact_match"] > 0
    assert scored.verdict == "leak", scored.reason
