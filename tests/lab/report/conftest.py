"""A synthetic run and what is in its report, made once."""

from pathlib import Path

import pytest

from fedsim.lab.report import write_report
from fedsim.lab.store.run import RunDirectory
from tests.lab.synthetic import synthetic_run

EVIL = (
    '<script>alert("read me")</script> wrote to <b>mallory@example.org</b> & {{ 7*7 }}',
    "Order by \u202eevil\u202c \u05e9\u05dc\u05d5\u05dd \u200f and a bell \x07 rings",
    "=cmd|' /C calc'!A0 was typed by Zelda Birkett on 17 May",
)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Two rounds, two clients, three texts each; three of them are of an ill-meaning client."""
    return synthetic_run(tmp_path_factory.mktemp("report") / "run", texts=EVIL, read=0.9)


@pytest.fixture(scope="session")
def page(run: RunDirectory) -> Path:
    """Its report."""
    return write_report(run.root, redact=False)
