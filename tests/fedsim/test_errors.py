import pytest

from fedsim import errors
from fedsim.errors import FedsimError, unknown


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
