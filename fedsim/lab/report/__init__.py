"""The report: what a run or a sweep showed, in one file for a reader who was not there."""

from pathlib import Path

from fedsim.errors import BadInput, MalformedMessage
from fedsim.files import drop_drafts
from fedsim.lab.report.render import write_page
from fedsim.lab.report.run_page import run_page
from fedsim.lab.report.sweep_page import sweep_page
from fedsim.lab.store import layout
from fedsim.lab.store.attack import open_run

__all__ = ["write_report"]


def write_report(directory: Path, *, redact: bool) -> Path:
    """Write ``report.html`` and the folder ``report`` into a run or a sweep; return the file.

    Args:
        directory: of a finished run, of an attack on its captures, or of a sweep.
        redact: leave out every text of a client and every reconstruction.

    Raises:
        BadInput: there is no finished run.
        MalformedMessage: a file in it is broken.
    """
    try:
        if layout.is_sweep(directory):
            page = sweep_page(directory, redact=redact)
        else:
            page = run_page(open_run(directory), redact=redact)
    except MalformedMessage as error:
        raise BadInput(str(error)) from error
    drop_drafts(directory, deep=True)
    return write_page(page, directory)
