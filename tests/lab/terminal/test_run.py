import re

import pytest

from fedsim.lab.scoring.metrics import Pair
from fedsim.lab.scoring.scored import Scored
from fedsim.lab.store.summary import Summary
from fedsim.lab.terminal.run import SHOWN, SideBySide, Terminal, print_summary
from fedsim.printing import printable
from fedsim.types import Tokens
from tests.lab.attempts import attempt
from tests.lab.conftest import preset

ADAPTER = preset()
HOSTILE = "\x1b[2J\x1b]0;owned\x07 a\rb\x08\x00 \u202e right \x9b31m"


def ids(text: str) -> Tokens:
    return tuple(ADAPTER.tokenizer(text)["input_ids"])


def shown(capsys: pytest.CaptureFixture[str], *pairs: tuple[str, str]) -> str:
    SideBySide(ADAPTER).print([(ids(truth), ids(guess)) for truth, guess in pairs])
    return capsys.readouterr().out


def words(printed: str, column: int) -> str:
    """The text of a column of the table, its wrapped lines joined again."""
    rows = [line.split("│") for line in printed.splitlines() if line.startswith("│")]
    return " ".join(" ".join(row[column].split()) for row in rows if row[column].strip())


def controls(text: str) -> set[str]:
    return {c for c in text if not c.isprintable() and c != "\n"}


# Client text cannot drive the terminal


def test_control_characters_are_shown_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, (HOSTILE, "harmless"), ("harmless", HOSTILE))
    assert not controls(printed)
    for escaped in (r"\x1b[2J", r"\x07", r"\r", r"\x08", r"\x00", r"\u202e", r"\x9b31m"):
        assert printed.replace("\n", "").count(escaped) == 2, escaped


def test_a_guess_without_a_truth_is_made_printable_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = [HOSTILE]
    scored = Scored(attempt=attempt(0, [ids(HOSTILE)], texts=texts))
    nothing = Summary(schema=1, name="mine", seed=1, attacks=[], leakage={}, verdicts={})
    print_summary(nothing, [scored], SideBySide(ADAPTER))
    printed = capsys.readouterr().out
    assert not controls(printed)
    assert r"\x1b[2J" in printed.replace("\n", "")


def test_a_clients_error_is_made_printable(capsys: pytest.CaptureFixture[str]) -> None:
    display = Terminal()
    display.say(f"round 1: client 0 failed: {HOSTILE}")
    display.step(HOSTILE)
    printed = capsys.readouterr().err
    assert "round 1: client 0 failed" in printed
    assert not controls(printed)


def test_printable_keeps_every_script() -> None:
    text = "Grüße, 你好, שלום, नमस्ते 🙂 – [bold]"
    assert printable(text) == text
    assert printable("a\tb\nc\u200f\x7f") == r"a\tb\nc\u200f\x7f"


def test_markup_in_a_text_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    text = "see [bold]me[/bold] [link=http://x]here[/link] [/]"
    printed = shown(capsys, (text, text))
    assert words(printed, 2) == words(printed, 3) == text
    Terminal().say(text)
    assert capsys.readouterr().err.strip() == text


# What is shown


def test_texts_stand_side_by_side_with_a_mark(capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, ("all of it", "all of it"), ("some of it", "some at it"), ("none", ""))
    marks = [line.split("│")[1].strip() for line in printed.splitlines() if line[:1] == "│"]
    assert marks == ["=", "~", "-"]
    assert words(printed, 2) == "all of it some of it none"
    assert words(printed, 3) == "all of it some at it"


def test_long_texts_are_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(f"word{i}" for i in range(300))
    printed = shown(capsys, (text, text.replace("word7 ", "wordx ")))
    assert words(printed, 2) == text
    assert max(map(len, printed.splitlines())) <= 80  # rich's width where there is no terminal


def test_one_endless_word_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, ("x" * 500, "y"))
    assert words(printed, 2).replace(" ", "") == "x" * 500


def test_a_few_pairs_are_shown_and_the_rest_counted(capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, *[(f"text {i}", f"text {i}") for i in range(SHOWN + 3)])
    assert "... and 3 more in samples.jsonl" in printed
    assert f"text {SHOWN - 1}" in printed
    assert f"text {SHOWN}" not in printed


def test_characters_of_several_tokens_are_shown_right(capsys: pytest.CaptureFixture[str]) -> None:
    # "é" and "è" are two byte-level tokens each, the first one shared: a difference within.
    truth, guess = "un été à la mer", "un ètè à la mer"
    shared = set(ids("é")) & set(ids("è"))
    assert shared and len(ids("é")) == 2
    printed = shown(capsys, (truth, guess))
    assert words(printed, 2) == truth
    assert words(printed, 3) == guess


# The whole summary


def pair(truth: str, guess: str) -> Pair:
    return Pair(truth=ids(truth), guess=ids(guess), truth_text=truth, guess_text=guess)


def summary(name: str) -> Summary:
    entry = {
        "attack": name,
        "round": 1,
        "client": 0,
        "samples": 2,
        "seconds": 0.25,
        "verdict": "inconclusive",
        "metrics": {
            "exact_match": 0.5,
            "token_accuracy": 0.75,
            "rouge1": 62.5,
            "precision": 0.22,
        },
        "controls": {"no_gradient": {"rouge1": 12.25}},
    }
    verdict = {"verdict": "inconclusive", "reason": "Because [this] is so."}
    tree = {
        "schema": 1,
        "name": "mine",
        "seed": 1,
        "leakage": {},
        "attacks": [entry],
        "notes": ["take [care]."],
        "verdicts": {name: verdict},
        "utility": {
            "metric": "accuracy",
            "before": 0.5,
            "after": 0.625,
            "per_round": [0.625],
            "others": {"mcc": {"before": 0.0, "after": 0.25, "per_round": [0.25]}},
        },
        "wire": {"bytes_up": 1_234_567, "bits_per_entry": 4.25, "seconds": 0.5, "updates": 1},
    }
    return Summary.model_validate(tree)


def test_the_summary_says_all_that_a_reader_needs(capsys: pytest.CaptureFixture[str]) -> None:
    samples = [{"bag_f1": 0.1}, {"bag_f1": 0.2}]
    best = Scored(attempt=attempt(1, []), pairs=[pair("worst leak", "worst leak")])
    best.samples = [{"bag_f1": 1.0}]
    little = Scored(attempt=attempt(0, []), pairs=[pair("little leak", "other")], samples=samples)
    print_summary(summary("dager"), [little, best], SideBySide(ADAPTER))
    printed = capsys.readouterr().out
    assert printed.index("worst leak") < printed.index("little leak")  # the worst comes first
    for wanted in (
        "0.50",
        "0.22",
        "0.75",
        "62.5",
        "12.2",
        "inconclusive",
        "dager",
        "Because [this] is so",
    ):
        assert wanted in printed
    assert "take [care]." in printed
    assert re.search(r"accuracy.*0\.500.*0\.625", printed.replace("\n", " "))
    assert "mcc 0.000 -> 0.250" in printed
    assert "An update: 1.23 MB up (4.25 bits an entry), 0.50 s of the client" in printed


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal(quiet=True) as display:
        display.say("a")
        display.step("b")
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_stderr_and_seldom(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal() as display:  # not a terminal: nothing can be redrawn
        for step in range(50):
            display.step(f"step {step}")
        display.say("a line that stays")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["step 0", "a line that stays"]


def test_a_long_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = "stopped; go on with: fedsim run --out " + "deep/" * 30 + " --resume"
    Terminal().say(command)
    assert capsys.readouterr().err.splitlines() == [command]  # to be copied
