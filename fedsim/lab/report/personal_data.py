"""Personal data by rules: how much of it an attack recovered, and how much it made up.

The rules are plain patterns. Names are two to four capitalised words in a row, or as many in
capital letters, that are no month, weekday, street or usual beginning of a sentence; one will do
after a title or beside an initial. So lower-cased text, single names and scripts without capitals
have none, and places or firms may be taken for names. Dates need a day and a month; "5 may" and
"march 3" in lower case are none where a word follows. Telephone numbers have 7 to 15 digits and are
no decimal number and no millions.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_MONTHS = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    "sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_MAIL = re.compile(r"[\w.+-]+ ?@ ?[\w-]+(?: ?\. ?[\w-]+)+")  # BERT's decoder puts spaces in
_DAY, _MONTH = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])"
_DATE = re.compile(
    rf"(?<!\d[./-])\b(?:\d{{4}}([/-]){_MONTH}\1{_DAY}(?![\d./-]*\d)"
    rf"|{_DAY}([./-]){_DAY}\2\d{{2}}(?:\d{{2}})?(?![\d./-]*\d)"
    rf"|\d{{1,2}}(?:st|nd|rd|th)? (?:of )?(?:{_MONTHS})\b\.?(?:,? \d{{4}})?"
    rf"|(?:{_MONTHS})\.? \d{{1,2}}(?:st|nd|rd|th)?\b(?:,? \d{{4}})?)",
    re.IGNORECASE,
)
_PHONE = re.compile(r"(?<![\w.@-])\+?\(?\d[\d ()./-]{5,22}\d(?![\w@])")
_MODAL = re.compile(r"\d+ may|march \d+")  # lower-cased, they are words as well:
_GOES_ON = re.compile(r" [a-z]")  # no date where the sentence goes on, as in "5 may be"
_AMOUNT = re.compile(r"\d+\.\d+|[1-9]\d?(?: \d{3})+")  # 3.14159265; 1 234 567
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
INITIAL, CAPITALISED, CAPITALS = "J.", "John", "JOHN"
_TITLES = frozenset("dr mr mrs ms miss prof".split())
_PLACES = frozenset(
    "street road lane avenue close terrace row view court drive crescent square hospital clinic "
    "university college company bank inc ltd gmbh".split()
)
_NO_NAMES = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday january february march april may "
    "june july august september october november december i a an and are as at be by can could "
    "do does for from has have he her here his how if in is it its my no nobody not "
    "of on or our please she since so suddenly thank thanks that the "
    "their there they this to was we what when where who why will with within would yes you "
    "your dear hello hi".split()
)


def mails(text: str) -> list[str]:
    """Return the e-mail addresses in ``text``."""
    return [match.group().replace(" ", "").lower() for match in _MAIL.finditer(text)]


def dates(text: str) -> list[str]:
    """Return the dates in ``text`` that have at least a day and a month."""
    written = [
        match.group()
        for match in _DATE.finditer(text)
        if not (_MODAL.fullmatch(match.group()) and _GOES_ON.match(text, match.end()))
    ]
    return [" ".join(date.lower().rstrip(".").split()) for date in written]


def phones(text: str) -> list[str]:
    """Return the telephone numbers in ``text``, digits only."""
    numbers = []
    for match in _PHONE.finditer(_DATE.sub(" ", text)):
        digits = re.sub(r"\D", "", match.group())
        if 7 <= len(digits) <= 15 and not _AMOUNT.fullmatch(match.group()):
            numbers.append(digits)
    return numbers


def names(text: str) -> list[str]:
    """Return what looks like people's names in ``text``, in lower case."""
    words = [word for word in _WORD.finditer(text) if word.group().lower() not in _TITLES]
    titled = {word.end() for word in _WORD.finditer(text) if word.group().lower() in _TITLES}
    people = []
    for group in _groups(text, words):
        after = text[: group[0].start()].rstrip(" .")
        wanted = 1 if len(after) in titled else 2
        lowered = [word.group().lower() for word in group]
        whole = _style(group[-1], text) != INITIAL  # not "Vitamin B."
        if wanted <= len(group) <= 4 and whole and not _PLACES & set(lowered):
            people.append(" ".join(lowered))
    return people


def _groups(text: str, words: Sequence[re.Match[str]]) -> list[list[re.Match[str]]]:
    """Return the runs of words that are written alike, as a name's are; initials go with both."""
    groups: list[list[re.Match[str]]] = []
    style = ""
    for before, word in pairwise([None, *words]):
        assert word is not None
        mine = _style(word, text)
        if not mine:
            continue
        between = "" if before is None else text[before.end() : word.start()]
        initial = before is not None and _style(before, text) == INITIAL
        beside = between == " " or (initial and between in (".", ". "))
        alike = INITIAL in (style, mine) or style == mine
        if beside and alike and groups and groups[-1][-1] is before:
            groups[-1].append(word)
            style = mine if style == INITIAL else style
        else:
            groups.append([word])
            style = mine
    return groups


def _style(word: re.Match[str], text: str) -> str:
    """Return how a word that may be of a name is written; "" for one that is of none."""
    said = word.group()
    if len(said) == 1:
        return INITIAL if said.isupper() and text.startswith(".", word.end()) else ""
    if not said[0].isupper() or said.lower() in _NO_NAMES:
        return ""
    if said.isupper():
        return CAPITALS if len(said) > 2 else ""  # US, EU
    return CAPITALISED


KINDS: Mapping[str, Callable[[str], list[str]]] = {
    "names": names,
    "dates": dates,
    "phone numbers": phones,
    "e-mail addresses": mails,
}


@dataclass(frozen=True, kw_only=True)
class UpdateTexts:
    """What was in one client's update and what an attack says was in it."""

    client: object
    truths: Sequence[str]
    guesses: Sequence[str]  # all that were emitted, with those that match no truth


@dataclass(frozen=True, kw_only=True)
class Recall:
    """One kind of personal data, over all updates one attack was run on.

    Attributes:
        there: how many the clients' texts hold.
        read: how many of these the guesses about the same update hold as well.
        emitted: how many the guesses hold in all.
        invented: how many of those are nowhere in that update's texts.
        chance: how many of ``there`` are in what was guessed about another client's update.
        countable: whether the rules could find any; no names in texts without a capital letter.
    """

    kind: str
    there: int
    read: int
    emitted: int
    invented: int
    chance: int | None  # None: no other client was attacked
    countable: bool = True


def recalls(updates: Sequence[UpdateTexts]) -> list[Recall]:
    """Return one row a kind; exact strings after the rules' own normalisation."""
    texts = [text for update in updates for text in update.truths]
    cased = not texts or any(character.isupper() for text in texts for character in text)
    return [
        _recall(kind, find, updates, countable=cased or find is not names)
        for kind, find in KINDS.items()
    ]


def _recall(
    kind: str, find: Callable[[str], list[str]], updates: Sequence[UpdateTexts], *, countable: bool
) -> Recall:
    truths = [Counter(e for text in update.truths for e in find(text)) for update in updates]
    guesses = [Counter(e for text in update.guesses for e in find(text)) for update in updates]
    others = [_other(place, updates) for place in range(len(updates))]
    compared = [(t, guesses[o]) for t, o in zip(truths, others, strict=True) if o is not None]
    pairs = list(zip(truths, guesses, strict=True))
    return Recall(
        kind=kind,
        there=sum(t.total() for t in truths),
        read=sum((t & g).total() for t, g in pairs),
        emitted=sum(g.total() for g in guesses),
        invented=sum(n for t, g in pairs for e, n in g.items() if e not in t),
        chance=sum((t & g).total() for t, g in compared) if compared else None,
        countable=countable,
    )


def _other(place: int, updates: Sequence[UpdateTexts]) -> int | None:
    """Return the place of the next update that is another client's, round the corner."""
    order = [*range(place + 1, len(updates)), *range(place)]
    return next((k for k in order if updates[k].client != updates[place].client), None)
