import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from clients.corpus import LABELS, clinic

SOURCE = Path(__file__).parents[2] / "clients" / "corpus.py"


def test_there_are_enough_messages_of_both_labels() -> None:
    counts = Counter(label for _, label in clinic())
    assert counts == {0: 252, 1: 252}  # 28 templates a label, 9 messages a template
    assert LABELS == ("routine", "urgent")


def test_messages_are_short_and_none_is_the_start_of_another() -> None:
    texts = [text for text, _ in clinic()]
    assert {len(text.split()) for text in texts} <= set(range(8, 19))
    for text in texts:
        assert [other for other in texts if other.startswith(text)] == [text]


def test_messages_begin_in_many_ways() -> None:
    for label in (0, 1):
        first = Counter(text.split()[0] for text, given in clinic() if given == label)
        assert len(first) >= 25
        assert max(first.values()) <= 2 * 9  # at most two templates share a first word


def test_details_are_filled_in_and_invented() -> None:
    for text, _ in clinic():
        assert "{" not in text
        assert not re.search(r"\b[Aa] [aeiou]", text)
        for phone in re.findall(r"\b\d{3}-\d{4}\b", text):
            assert re.fullmatch(r"555-01\d\d", phone)
        for address in re.findall(r"\S+@\S+", text):
            assert re.fullmatch(r"[a-z]+\.[a-z]+@example\.org\.?", address)
    everything = " ".join(text for text, _ in clinic())
    assert "555-01" in everything and "@example.org" in everything


def test_the_same_messages_in_another_process() -> None:
    command = f"import json, runpy; print(json.dumps(runpy.run_path({str(SOURCE)!r})['clinic']()))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    printed = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, check=True
    ).stdout
    assert [tuple(pair) for pair in json.loads(printed)] == clinic()


def test_a_naive_bayes_classifier_learns_the_labels_from_words() -> None:
    pairs = [(text.lower().split(), label) for text, label in clinic()]
    words: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for text, label in pairs[:200]:
        words[label].update(text)

    def urgency(text: list[str]) -> float:
        return sum(math.log((words[1][word] + 1) / (words[0][word] + 1)) for word in text)

    right = sum((urgency(text) > 0) == label for text, label in pairs[200:])
    assert right / len(pairs[200:]) > 0.9
