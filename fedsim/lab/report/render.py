"""Writes a page: one HTML file, and a folder with its plots and tables."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedsim.files import write_text
from fedsim.lab.report.page import Page, readable
from fedsim.lab.report.plots.canvas import NARROW, WIDE
from fedsim.lab.report.plots.theme import DARK, LIGHT, STEPS, variables
from fedsim.lab.store import layout

HERE = Path(__file__).parent / "templates"
OPEN = 12  # samples that are seen without a click, and printed


def as_html(page: Page) -> str:
    """Return ``page`` as one HTML document that needs nothing else."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["readable"] = readable
    style = (HERE / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        page=page,
        style=Markup(style),
        light=Markup(variables(LIGHT)),
        dark=Markup(variables(DARK)),
        steps=STEPS,
        wide=WIDE,
        narrow=NARROW,
        open=OPEN,
    )


def write_page(page: Page, directory: Path) -> Path:
    """Write ``report.html`` and the folder ``report/``; return the file's path."""
    folder = directory / layout.REPORT_FILES
    path = directory / layout.REPORT
    write_text(path, as_html(page))
    written: set[Path] = set()
    for section in page.sections:
        for plot in section.plots:
            written.update(plot.write(folder))
        for table in (*section.tables, *section.folded):
            written.add(table.write(folder))
    written |= {table.write(folder) for table in page.files}
    for old in folder.iterdir():  # an earlier report's: its texts may have to be hidden now
        if old.suffix in (".csv", ".svg", ".png") and old not in written:
            old.unlink()
    return path
