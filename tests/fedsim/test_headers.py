"""What a plugin says of itself: read off its own file, never made up."""

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from attacks import ATTACKS, Dager
from defenses import DEFENSES, DPSGD, NoDefense
from fedsim.headers import ATTACK, DEFENSE, first_line, header, parse

HEADER = """Guess from what moved.

Source:      A & B, "A ``title``: with a colon", 2024,
             arXiv:0000.00000, eq. 3.
Assumes:     an update.
Not a key:   of any plugin.
             So this belongs to nothing.
Recovers:    tokens;
               in order.

             And this is another paragraph.
Deviations:
"""


def test_lines_and_those_that_go_on() -> None:
    assert parse(HEADER) == {
        "source": 'A & B, "A title: with a colon", 2024, arXiv:0000.00000, eq. 3.',
        "assumes": "an update.",
        "recovers": "tokens; in order.",
    }


def test_prose_is_no_header() -> None:
    assert parse("") == {}
    assert parse("A sentence about its\n\nSource: see below, not at the line's end\n") == {
        "source": "see below, not at the line's end"
    }
    assert parse("What it recovers: nothing.\n\nSo:\n  Source: of a line that is indented.") == {}


def test_each_of_our_own_attacks_says_everything() -> None:
    for name, plugin in ATTACKS.items():
        assert tuple(header(plugin)) == ATTACK, name
    for name, defense in DEFENSES.items():
        said = () if name == "none" else DEFENSE
        assert tuple(header(defense)) == said, name


def test_it_is_the_file_of_the_class_and_not_the_package_it_is_imported_from() -> None:
    said = header(Dager)  # attacks/dager/attack.py
    assert said["source"].startswith("Petrov, Dimitrov, Baader, Müller, Vechev")
    assert "arXiv:2405.15586" in said["source"]
    assert "\n" not in "".join(said.values())
    assert header(DPSGD)["guarantee"].startswith("(epsilon, delta) for one example")
    assert header(NoDefense) == {}


@pytest.fixture
def package() -> Iterator[types.ModuleType]:
    """A package of somebody's with a module in it, imported."""
    names = ("outsiders_package", "outsiders_package.inner")
    package, inner = (types.ModuleType(name) for name in names)
    sys.modules.update({package.__name__: package, inner.__name__: inner})
    inner.__dict__["package"] = package
    yield inner
    for name in names:
        del sys.modules[name]


def plugin_of(module: types.ModuleType) -> type:
    @dataclass(frozen=True, kw_only=True)
    class Theirs:
        """Do something.

        At length.
        """

    Theirs.__module__ = module.__name__
    return Theirs


def test_without_a_header_nothing_is_said(package: types.ModuleType) -> None:
    assert header(plugin_of(package)) == {}
    assert first_line(plugin_of(package)) == "Do something."
    package.__doc__ = "Without one of the lines."
    assert header(plugin_of(package)) == {}


def test_the_package_speaks_for_a_module_without_a_header(package: types.ModuleType) -> None:
    package.__dict__["package"].__doc__ = "Source: the package.\n"
    assert header(plugin_of(package)) == {"source": "the package."}
    package.__doc__ = "Assumes: much.\n"
    assert header(plugin_of(package)) == {"assumes": "much."}  # of one file, or of the other


def test_a_class_from_nowhere_says_nothing() -> None:
    nowhere = types.new_class("Nowhere")
    nowhere.__module__ = "no.such.module"
    assert header(nowhere) == {} and first_line(nowhere) == ""
