import pytest

from fedsim.lab.config.labels import label, short_names


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"name": "topk", "fraction": 0.1}, "topk(fraction=0.1)"),
        ([{"name": "clip"}, "noise"], "clip+noise"),
        ([], "[]"),
        (None, "-"),
        (True, "true"),
        (1e-4, "0.0001"),
        ("none", "none"),
        ({"labels": True}, "{labels=true}"),
        (0.1234567, "0.1234567"),
        (0.12345671, "0.12345671"),
        (1e-05, "1e-05"),
        (2.0, "2"),
    ],
)
def test_a_label_says_a_value_in_a_few_words(value: object, text: str) -> None:
    assert label(value) == text


def test_a_short_name_is_the_last_part_where_that_says_which() -> None:
    keys = ["training.batch_size", "attack.name", "defense.name", "seed"]
    assert short_names(keys) == {
        "training.batch_size": "batch_size",
        "attack.name": "attack.name",
        "defense.name": "defense.name",
        "seed": "seed",
    }
    assert short_names(["training.rounds"], taken=["rounds"]) == {
        "training.rounds": "training.rounds"
    }
