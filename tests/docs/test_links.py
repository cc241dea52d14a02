"""Links between pages lead somewhere, and their anchors are headings there."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import BLOCK, PAGES, ROOT, name

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`[^`]*`")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
ELSEWHERE = ("http://", "https://", "mailto:")


def anchors(page: str) -> set[str]:
    """Return what headings are called in links: as GitHub and MkDocs' toc both make them."""
    bare = BLOCK.sub("", page)
    slugs = [re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in HEADING.findall(bare)]
    return {re.sub(r"[\s]+", "-", slug) for slug in slugs}


def dead(page: Path, text: str) -> list[str]:
    """Return the links of ``text``, which stands in ``page``, that lead nowhere."""
    bare = CODE.sub("", BLOCK.sub("", text))
    lost = []
    for link in LINK.findall(bare):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if link.startswith(ELSEWHERE):
            continue
        if not target.exists() or not target.is_relative_to(ROOT.resolve()):
            lost.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            lost.append(f"{link}: no such heading")
    return lost


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_link_is_dead(page: Path) -> None:
    assert dead(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("docs/nothing.md", "no such file"),
        ("docs/config.md#nothing", "no such heading"),
        ("#nothing", "no such heading"),
        ("../../etc", "no such file"),
    ],
)
def test_a_dead_link_would_be_found(link: str, reason: str) -> None:
    assert dead(ROOT / "README.md", f"see [it]({link})") == [f"{link}: {reason}"]


def test_headings_are_called_as_they_are_on_the_site() -> None:
    page = "# `fedsim gate`\n## Is the claim true? `fedsim audit-dp`\n```\n# no heading\n```\n"
    assert anchors(page) == {"fedsim-gate", "is-the-claim-true-fedsim-audit-dp"}


def test_readme_is_one_page() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_shown_as_toml_is_toml(page: Path) -> None:
    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "toml":
            tomllib.loads(code)
