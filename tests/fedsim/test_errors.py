import pickle

import pytest

from fedsim import errors
from fedsim.errors import BadInput, FedsimError, quote, reading, redacted, unknown


def test_unknown_names_the_nearest_then_all() -> None:
    line = unknown("attack", "tgg", ["tag", "lamp", "dager"])
    assert line == "unknown attack 'tgg'; did you mean 'tag'? (known: dager, lamp, tag)"


def test_unknown_names_none_where_none_is_near() -> None:
    assert (
        unknown("attack", "xyz", ["dager", "lamp"]) == "unknown attack 'xyz' (known: dager, lamp)"
    )


def test_unknown_says_so_where_nothing_is_known() -> None:
    assert unknown("plugin", "dager", []) == "unknown plugin 'dager' (known: none)"


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("BadInput", ValueError),
        ("MalformedMessage", ValueError),
        ("UnsupportedObservation", ValueError),
        ("ClientFailure", RuntimeError),
        ("RunFailed", RuntimeError),
    ],
)
def test_every_error_is_ours_and_the_builtin_that_others_catch(
    name: str, builtin: type[Exception]
) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, FedsimError) and issubclass(kind, builtin)
    assert name in (errors.__doc__ or "")  # the tree in the docstring shows it


def test_the_tree_in_the_docstring_is_complete() -> None:
    drawn = {line.split()[1] for line in (errors.__doc__ or "").splitlines() if "──" in line}
    assert drawn == {kind.__name__ for kind in FedsimError.__subclasses__()}


def test_what_is_quoted_of_the_data_is_said_and_can_be_left_out() -> None:
    error = BadInput(f"data.name: wanted a number, got {quote(repr('Nora'))} in row 3")
    assert str(error) == "data.name: wanted a number, got 'Nora' in row 3"
    assert redacted(error) == "data.name: wanted a number, got … in row 3"
    again = pickle.loads(pickle.dumps(error))  # as Ray's workers send it
    assert (str(again), redacted(again)) == (str(error), redacted(error))
    assert str(BadInput(error)) == str(error) and redacted(BadInput(error)) == redacted(error)


def test_an_error_that_repeats_another_leaves_out_the_same() -> None:
    with pytest.raises(FedsimError) as caught:
        try:
            raise BadInput(f"got {quote('Nora')}")
        except BadInput as error:
            raise FedsimError(f"{error} (in the cell a=1)") from error
    assert str(caught.value) == "got Nora (in the cell a=1)"
    assert redacted(caught.value) == "got … (in the cell a=1)"


def test_data_cannot_end_its_own_quotation() -> None:
    hostile = "a\ufdd1 Nora \ufdd0b"
    assert redacted(BadInput(f"got {quote(hostile)}")) == "got …"
    assert str(BadInput(f"got {quote(hostile)}")) == "got a Nora b"


def test_a_librarys_words_are_the_datas_where_they_may_be() -> None:
    for private, told in ((True, "texts: …"), (False, "texts: no Nora")):
        with pytest.raises(BadInput) as caught, reading("texts", private=private):
            raise ValueError("no Nora")
        assert redacted(caught.value) == told
        assert str(caught.value) == "texts: no Nora"


def test_names_of_the_data_are_left_out_too() -> None:
    line = unknown("column", "txt", ["text", "Nora"], private=True)
    assert str(BadInput(line)) == "unknown column 'txt'; did you mean 'text'? (known: Nora, text)"
    assert redacted(BadInput(line)) == "unknown column 'txt'; did you mean …? (known: …)"
