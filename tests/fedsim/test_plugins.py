"""Plugins: what is asked for is checked, and outsiders' own are found where they were installed."""

import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from fedsim.errors import BadInput
from fedsim.plugins import make, table

Install = Callable[[str, str], None]


class Base:
    """What plugins of these tests derive from."""


@dataclass(frozen=True, kw_only=True)
class Sieve(Base):
    """A plugin with one parameter of each kind."""

    families: ClassVar[tuple[str, ...]] = ("gpt2",)

    steps: int = 3
    rate: float = 0.5
    mode: str = "fast"
    exact: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"rate must be in [0, 1), got {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Needy(Base):
    """A plugin that cannot do without its parameter."""

    steps: int


KNOWN: dict[str, type[Base]] = {"sieve": Sieve, "needy": Needy}


def test_a_plugin_is_made_with_its_defaults_and_what_was_asked_for() -> None:
    assert make("attack", "sieve", KNOWN, {}) == Sieve()
    asked = {"steps": 9, "rate": 0.25, "mode": "slow", "exact": True}
    assert make("attack", "sieve", KNOWN, asked) == Sieve(
        steps=9, rate=0.25, mode="slow", exact=True
    )


def test_an_integer_will_do_for_a_float() -> None:
    made = make("attack", "sieve", KNOWN, {"rate": 0})
    assert isinstance(made, Sieve) and made.rate == 0.0


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(
        BadInput, match=r"unknown attack 'seive'; did you mean 'sieve'\? \(known: needy, sieve\)"
    ):
        make("attack", "seive", KNOWN, {})


def test_an_unknown_parameter_names_the_nearest() -> None:
    wanted = r"attack sieve: unknown parameter 'step'; did you mean 'steps'\?"
    with pytest.raises(BadInput, match=wanted):
        make("attack", "sieve", KNOWN, {"step": 9})


def test_a_class_variable_is_no_parameter() -> None:
    with pytest.raises(
        BadInput, match=r"unknown parameter 'families' \(known: exact, mode, rate, steps\)"
    ):
        make("attack", "sieve", KNOWN, {"families": ("bert",)})


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("steps", "many"), ("steps", 2.5), ("steps", None), ("rate", "x"), ("mode", 3), ("exact", 7)],
)
def test_a_wrong_type_names_the_parameter_and_what_came(parameter: str, value: object) -> None:
    with pytest.raises(BadInput, match=rf"attack sieve: {parameter}: .*, got {value!r}"):
        make("attack", "sieve", KNOWN, {parameter: value})


def test_a_value_out_of_range_says_what_the_plugin_itself_says() -> None:
    with pytest.raises(BadInput, match=r"^attack sieve: rate must be in \[0, 1\), got 1.5$"):
        make("attack", "sieve", KNOWN, {"rate": 1.5})


def test_a_parameter_that_is_needed_is_asked_for() -> None:
    with pytest.raises(BadInput, match=r"attack needy: steps: .*required"):
        make("attack", "needy", KNOWN, {})


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what installs a package with one entry point: ``install("name = module:X", code)``."""
    monkeypatch.syspath_prepend(tmp_path)

    def run(entry: str, code: str) -> None:
        module = entry.split("=")[1].split(":")[0].strip()
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        monkeypatch.delitem(sys.modules, module)  # so that it is gone again after the test
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[fedsim.tests]\n{entry}\n")

    return run


THEIRS = f"""
from dataclasses import dataclass
from {__name__} import Base

@dataclass(frozen=True, kw_only=True)
class Theirs(Base):
    steps: int = 1
"""


def test_an_outsiders_plugin_appears_beside_our_own(install: Install) -> None:
    install("theirs = outsider_a:Theirs", THEIRS)
    plugins = table("fedsim.tests", Base, KNOWN)
    assert sorted(plugins) == ["needy", "sieve", "theirs"]
    assert issubclass(plugins["theirs"], Base)
    assert repr(make("attack", "theirs", plugins, {"steps": 4})) == "Theirs(steps=4)"
    assert sorted(KNOWN) == ["needy", "sieve"]  # ours is as it was
    assert table("fedsim.nothing", Base, KNOWN) == KNOWN


def test_what_is_installed_after_a_first_look_is_found(install: Install) -> None:
    assert table("fedsim.tests", Base, KNOWN) == KNOWN
    install("later = outsider_g:Theirs", THEIRS)
    assert sorted(table("fedsim.tests", Base, KNOWN)) == ["later", "needy", "sieve"]


def test_a_name_of_our_own_stays_ours(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("sieve = outsider_b:Theirs", THEIRS)
    plugins = table("fedsim.tests", Base, KNOWN)
    assert plugins["sieve"] is Sieve and not plugins.broken
    said = "plugin 'sieve' (outsider_b:Theirs): that name is taken, by one of fedsim's own"
    assert caplog.messages == [f"{said}; it is left out"]


def test_one_name_of_two_outsiders_is_neithers(install: Install) -> None:
    install("theirs = outsider_h:Theirs", THEIRS)
    install("theirs = outsider_i:Theirs", THEIRS)
    plugins = table("fedsim.tests", Base, KNOWN)
    assert "theirs" not in plugins
    with pytest.raises(BadInput, match=r"'theirs' \(outsider_[hi]:Theirs\): that name is taken"):
        make("attack", "theirs", plugins, {})


@pytest.mark.parametrize(
    "thing",
    [
        "class Theirs: pass",
        "def Theirs(): pass",
        "Theirs = 3",
        f"from {__name__} import Base\nclass Theirs(Base): pass",  # no dataclass
        f"from {__name__} import Base\nTheirs = Base()",  # no class
    ],
)
def test_what_is_no_plugin_class_is_left_out(install: Install, thing: str) -> None:
    install("odd = outsider_c:Theirs", thing)
    wanted = r"plugin 'odd' \(outsider_c:Theirs\) must be a dataclass that derives from Base"
    with pytest.raises(BadInput, match=wanted):
        make("attack", "odd", table("fedsim.tests", Base, KNOWN), {})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "no_such_module"),
        ("raise RuntimeError('my GPU is away')", "my GPU is away"),
        ("raise SystemExit(0)", r"SystemExit\(0\)"),
        ("Other = 3", "Theirs"),
    ],
)
def test_a_plugin_that_cannot_be_imported_stops_nobody_but_who_asks_for_it(
    install: Install, code: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    install("broken = outsider_d:Theirs", code)
    plugins = table("fedsim.tests", Base, KNOWN)
    assert make("attack", "sieve", plugins, {}) == Sieve()
    why = rf"plugin 'broken' \(outsider_d:Theirs\): .*{reason}"
    with pytest.raises(BadInput, match=why):
        make("attack", "broken", plugins, {})
    assert table("fedsim.tests", Base, KNOWN).broken == plugins.broken
    (warned,) = caplog.messages  # once
    assert re.match(why, warned) and warned.endswith("; it is left out")


def test_an_outsiders_attack_and_defense_are_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attacks import ATTACKS, attack_table
    from defenses import DEFENSES, defense_table

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outsider_e.py").write_text(
        "from attacks import Attack\nfrom defenses import Defense\n"
        "class A(Attack):\n    pass\nclass D(Defense):\n    pass\n"
    )
    info = tmp_path / "outsider_e-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider_e\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fedsim.attacks]\nnew = outsider_e:A\n[fedsim.defenses]\nnew = outsider_e:D\n"
    )
    assert set(attack_table()) - set(ATTACKS) == {"new"}
    assert set(defense_table()) - set(DEFENSES) == {"new"}
