"""Personal data by rules: by hand, and against the built-in corpus, whose parts are known."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from clients import corpus
from fedsim.lab.report.personal_data import UpdateTexts, dates, mails, names, phones, recalls
from fedsim.lab.report.sections import private_table
from fedsim.lab.scoring.again import samples_of_run
from tests.lab.synthetic import synthetic_run


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("This is Zelda Birkett; call me.", ["zelda birkett"]),
        ("Dr. Okafor saw Mr Jean-Luc O'Neill.", ["okafor", "jean-luc o'neill"]),
        ("Please ask Priya Ivanov Cheung.", ["priya ivanov cheung"]),
        ("He moved to 12 Elm Terrace in May.", []),
        ("Monday April the NASA", []),
        ("zelda birkett in lower case", []),
        ("Zoë Ångström and Łukasz Żak", ["zoë ångström", "łukasz żak"]),
        ("Zelda. Birkett", []),
        ("Signed JOHN SMITH, of the NASA", ["john smith"]),
        ("by J. Smith and Mary K. Jones", ["j smith", "mary k jones"]),
        ("by J.R.R. Tolkien", ["j r r tolkien"]),
        ("Ana Maria Lopez Garcia called", ["ana maria lopez garcia"]),
        ("Vitamin B. and the US Army", []),
        ("Mr SMITH", ["smith"]),
        ("", []),
    ],
)
def test_names(text: str, wanted: list[str]) -> None:
    assert names(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("on 17 May, or May 3rd, 2024", ["17 may", "may 3rd, 2024"]),
        ("2024-02-29 and 1/2/99 and 03.04.2020", ["2024-02-29", "1/2/99", "03.04.2020"]),
        ("the 2nd of October", ["2nd of october"]),
        ("we may meet 40 people at 13:15", []),
        ("version 1.2.3", []),
        ("2024/05/06 or 05-06-2024 6", ["2024/05/06", "05-06-2024"]),
        ("5 may be enough; march 3 miles", []),
        ("it was 5 may. or march 3, or march 3rd at noon", ["5 may", "march 3", "march 3rd"]),
        ("call 06-12-34-56-78 or 555-0123", []),
    ],
)
def test_dates(text: str, wanted: list[str]) -> None:
    assert dates(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("at 555-0123, or +44 20 7946 0000", ["5550123", "442079460000"]),
        ("(020) 7946-0000.", ["02079460000"]),
        ("born 2024-02-29, file RX-12345, 250 mg", []),
        ("a number of 123456789012345678 digits", []),
        ("pi is 3.14159265, of 1 234 567 people", []),
        ("2024/05/06 and 05-06-2024 6", []),
        ("612 345 678 or 06-12-34-56-78", ["612345678", "0612345678"]),
    ],
)
def test_phones(text: str, wanted: list[str]) -> None:
    assert phones(text) == wanted


def test_mails_also_as_berts_decoder_writes_them() -> None:
    text = "to Priya.Cheung@example.org or a @ b. org"
    assert mails(text) == ["priya.cheung@example.org", "a@b.org"]


def test_the_corpus_has_as_many_as_its_writer_put_in() -> None:
    """Counted by the corpus' own word lists, not by the rules."""
    texts = [text for text, _ in corpus.clinic()]
    first = set(corpus._FIRST)
    for text in texts:
        pairs = list(pairwise(re.findall(r"[A-Za-z]+", text)))
        whole = [f"{a} {b}".lower() for a, b in pairs if a in first and b in corpus._LAST]
        doctors = [b.lower() for a, b in pairs if a == "Dr"]
        assert sorted(names(text)) == sorted([*whole, *doctors]), text
        assert len(phones(text)) == text.count("555-01")
        assert len(mails(text)) == text.count("@")


def test_recall_and_invention_by_hand() -> None:
    updates = [
        UpdateTexts(
            client=0,
            truths=["Zelda Birkett, 555-0100", "Zelda Birkett again, on 3 May"],
            guesses=["Zelda Birkett, 555-0199", "on 3 May", "Bruno Adeyemi"],
        ),
        UpdateTexts(client=1, truths=["Bruno Adeyemi"], guesses=["Bruno Adeyemi"]),
        UpdateTexts(client=1, truths=["nothing"], guesses=[]),
    ]
    found = {one.kind: one for one in recalls(updates)}
    people = found["names"]
    assert (people.there, people.read) == (3, 2)  # one of two Zeldas, and Bruno
    assert (people.emitted, people.invented) == (3, 1)  # Bruno is not client 0's
    assert people.chance == 1  # what was read of client 0 names client 1's Bruno
    numbers = found["phone numbers"]
    assert (numbers.there, numbers.read, numbers.emitted, numbers.invented) == (1, 0, 1, 1)
    assert (found["dates"].there, found["dates"].read) == (1, 1)


def test_without_another_client_there_is_no_chance_level() -> None:
    updates = [UpdateTexts(client=0, truths=["Zelda Birkett"], guesses=[]) for _ in range(2)]
    assert {one.chance for one in recalls(updates)} == {None}


@pytest.mark.parametrize("texts", [["zelda birkett, 555-0100"], ["我叫王小明", "555-0100"]])
def test_names_are_not_counted_where_no_text_has_a_capital(texts: list[str]) -> None:
    found = {one.kind: one for one in recalls([UpdateTexts(client=0, truths=texts, guesses=texts)])}
    assert not found["names"].countable
    assert found["phone numbers"].countable and found["phone numbers"].read == 1
    cased = [UpdateTexts(client=0, truths=[*texts, "No name"], guesses=[])]
    assert all(one.countable for one in recalls(cased))
    assert all(one.countable for one in recalls([]))


def test_the_table_says_that_names_cannot_be_counted(tmp_path: Path) -> None:
    texts = ["zelda birkett rang from 555-0100"]
    run = synthetic_run(tmp_path / "run", rounds=1, clients=1, batch=1, texts=texts, read=1.0)
    samples = samples_of_run(run, run.summary())
    rows = private_table("dager", [(samples, run.attacked(run.summary()))]).rows
    assert rows[0] == ["names (no capitals, so they cannot be counted)", *[None] * 6]
    assert rows[2][:3] == ["phone numbers", 1, 1]
