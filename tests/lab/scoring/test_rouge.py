"""ROUGE on any script: the words are counted by hand, and ASCII text is rouge_score's own."""

import itertools
import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from clients.corpus import clinic
from fedsim.lab.scoring.rouge import paper_words, rouge, silent, words

RUSSIAN = "Она пришла вчера вечером, и ей уже лучше."
TEXTS = {
    "Russian": RUSSIAN,
    "Greek": "Ο γιατρός τηλεφώνησε χθες.",
    "Arabic": "وصلت المَرِيضة أمس إلى المستشفى.",
    "Persian": "او دیروز می‌خواست برود.",
    "Hebrew": "הרופא התקשר אתמול בערב.",
    "Hindi": "मरीज़ कल अस्पताल में आई थी।",
    "Chinese": "病人昨天下午来到医院。",
    "Japanese": "患者さんは昨日コーヒーを飲みました。",
    "Korean": "환자가 어제 병원에 왔습니다.",
    "Thai": "ผู้ป่วยมาโรงพยาบาลเมื่อวานนี้",
    "Lao": "ຄົນເຈັບມາໂຮງໝໍ",
    "Khmer": "អ្នកជំងឺមកមន្ទីរពេទ្យ",
    "Myanmar": "လူနာသည်မနေ့ကရောက်လာသည်",
    "Tibetan": "ནད་པ་ཁ་ས་སླེབས་བྱུང་།",
    "Amharic": "ታካሚው፡ትናንት፡መጣ።",
    "Georgian": "პაციენტი გუშინ მოვიდა.",
    "Vietnamese": "Bệnh nhân đã đến hôm qua.",
    "Czech": "Čaj jí včera vůbec nechutnal.",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_that_was_read_scores_100_in_any_script(text: str) -> None:
    said = words(text)
    assert len(said) > 2 and silent(text) == ()
    assert set(rouge(said, said).values()) == {100.0}
    for other in TEXTS.values():
        if other != text:
            assert rouge(said, words(other))["rouge1"] < 40  # Han is Japanese and Chinese


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Она ПРИШЛА вчера-вечером", "она пришла вчера вечером"),
        ("病人2人来た。", "病 人 2 人 来 た"),  # a letter is a word, a number is one
        ("GPT2を使う", "gpt2 を 使 う"),
        ("コーヒー", "コ ー ヒ ー"),
        ("ไป ๑๒ น", "ไ ป ๑๒ น"),
        ("हिन्दी में", "हिन्दी में"),  # vowel signs and the virama are marks
        ("مَدْرَسَة", "مَدْرَسَة"),  # so are short vowels
        ("한국어 글", "한국어 글"),  # written with spaces
        ("don't don’t м’яч", "don t don t м яч"),  # as rouge_score parts them
        ("a_b", "a b"),
        ("naïve café", "naïve café"),
        ("za\u200bżółć", "za żółć"),  # a space without a width
    ],
)
def test_words_counted_by_hand(text: str, expected: str) -> None:
    assert words(text) == tuple(expected.split())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("café", "cafe\u0301"),  # composed or not
        ("ＧＰＴ２ ｶﾞ", "gpt2 ガ"),  # full and half width
        ("ﬁne", "fine"),  # a ligature
        ("STRASSE", "straße"),
        ("ΟΔΟΣ", "οδος"),  # a final sigma
        ("می\u200cخواهم", "میخواهم"),  # a joiner without a width
        ("soft\u00adly", "softly"),
        ("\u202bשלום\u202c", "שלום"),  # marks of direction
    ],
)
def test_what_is_written_in_two_ways_is_one_word(one: str, other: str) -> None:
    assert words(one) == words(other)


def test_other_words_stay_others() -> None:
    assert words("čaj") != words("šaj") and words("caj") != words("čaj")
    assert words("मे") != words("में")
    # by hand: 3 of 4 words and 2 of 3 pairs are the same
    got = rouge(words("мама мыла белую раму"), words("мама мыла белую кошку"))
    assert got == pytest.approx({"rouge1": 75, "rouge2": 200 / 3, "rougeL": 75})
    got = rouge(words("我爱北京"), words("我爱南京"))
    assert got == pytest.approx({"rouge1": 75, "rouge2": 100 / 3, "rougeL": 75})


@pytest.mark.parametrize(
    "text", ["", " ", "!?", "…—«»", "😀🎉", "❤️ 👩‍👩‍👧", "\ud800", "\u0301", "___", "\ufffd\ufffd"]
)
def test_a_text_without_a_word_has_none(text: str) -> None:
    assert words(text) == ()
    assert silent(text) == ("rouge1", "rouge2", "rougeL")


def test_a_single_word_has_no_pair() -> None:
    assert silent("fine") == silent("Да!") == silent("好") == ("rouge2",)
    assert silent("so fine") == ()
    assert rouge(("fine",), ("fine",)) == {"rouge1": 100.0, "rouge2": 0.0, "rougeL": 100.0}


@pytest.mark.slow
def test_ascii_is_rouge_scores_to_the_last_bit() -> None:
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    draw = random.Random(7)
    pieces = ["a", "b", "c", "Don't", "x-y", "under_score", "!", "42", "3.5%", "\t", "K"]
    texts = [" ".join(draw.choices(pieces, k=draw.randrange(12))) for _ in range(20)]
    texts += ["".join(map(chr, draw.choices(range(128), k=40))) for _ in range(10)]
    texts += [" ".join(draw.choices(pieces, k=150)) for _ in range(2)]
    texts += [text for text, _ in clinic() if text.isascii()][:8]
    for truth, guess in itertools.product(texts, texts):
        assert words(truth) == paper_words(truth)
        ours = rouge(words(truth), words(guess))
        for name, score in theirs.score(truth, guess).items():
            assert ours[name] == 100 * score.fmeasure


def test_ascii_words_are_the_same_beside_others() -> None:
    draw = random.Random(8)
    for _ in range(200):
        text = "".join(map(chr, draw.choices(range(128), k=30)))
        assert words(f"{text} ж") == (*words(text), "ж")
