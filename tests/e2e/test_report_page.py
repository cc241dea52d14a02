"""The report as a browser shows it: no sideways scrolling, nothing clipped, readable, described."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedsim.files import write_json
from fedsim.lab.report import write_report
from tests.e2e.chromium import Chromium, find
from tests.lab.synthetic import cell, sweep_of, synthetic_run

SCRIPT = (Path(__file__).parent / "look.js").read_text(encoding="utf-8")
VIEWS = [(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]
LONG = "x" * 300 + " <script>document.title='owned'</script> \u202eabc " + "\u05d0" * 60

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find()
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium), which is absent")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run's report, a redacted one, and a sweep's, with long names, long texts and a failure."""
    root = tmp_path_factory.mktemp("pages")
    run = synthetic_run(root / "run", clients=6, rounds=5, batch=2, texts=[LONG], read=0.8)
    found = {"run": write_report(run.root, redact=False)}
    redacted = synthetic_run(root / "redacted", read=0.1)
    found["redacted"] = write_report(redacted.root, redact=True)
    found["sweep"] = write_report(_sweep(root / "sweep"), redact=False)
    return found


def _sweep(root: Path) -> Path:
    defenses = [
        "none",
        {"name": "a-defense-of-a-very-long-name", "noise_multiplier": 0.125},
        "topk",
    ]
    cells: list[dict[str, Any]] = []
    for seed in (1, 2):
        for k, defense in enumerate(defenses):
            for epochs in (1, 5):
                name = f"d={k},e={epochs},s={seed}"
                run = synthetic_run(
                    root / "cells" / name, rounds=1, batch=1, seed=seed,
                    read=1.0 if k == 0 else 0.9 / k / epochs,
                    summary={"utility": {
                        "metric": "accuracy", "before": 0.5, "after": 0.9 - 0.1 * k + 0.01 * seed,
                    }},
                )  # fmt: skip
                settings = {"defense": defense, "training.local_epochs": epochs, "seed": seed}
                cells.append(cell(name, settings, run.config().as_toml()))
    cells[-1] |= {"status": "failed", "error": "RunFailed: " + "the weights are not finite " * 9}
    axes = {"defense": defenses, "training.local_epochs": [1, 5], "seed": [1, 2]}
    write_json(root / "sweep.json", sweep_of(axes, cells, words=["seed=1,2"]))
    return root


@pytest.mark.parametrize("kind", ["run", "redacted", "sweep"])
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_a_page(
    kind: str, width: int, scheme: str, browser: Chromium, pages: dict[str, Path]
) -> None:
    browser.requests.clear()
    browser.open(pages[kind], width=width, scheme=scheme)
    seen = browser.ask(SCRIPT)
    assert seen["width"] == width
    assert seen["scrollWidth"] <= width, "the page scrolls sideways"
    assert seen["beyond"] == []
    assert seen["clipped"] == []
    assert seen["faint"] == [], "contrast below WCAG AA"
    assert seen["texts"] > 100 and seen["inPlots"] > 10, "the check looked at nothing"
    assert seen["undescribed"] == 0 and seen["plots"] >= 1
    assert seen["dark"] == (scheme == "dark")
    assert seen["title"].endswith("what the server could read")  # no script of a client's ran
    assert browser.requests == [pages[kind].as_uri()]  # nothing is fetched


def test_the_check_sees_what_is_wrong(browser: Chromium, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<body style='margin:0'><p style='color:#999;background:#fff'>faint</p>"
        "<p style='width:60px;overflow:hidden;white-space:nowrap'>this text is cut off here</p>"
        "<div style='width:2000px;text-align:right'>wide</div><svg role=img viewBox='0 0 100 20'>"
        "<rect width='100' height='20' fill='#fff'/>"
        "<text x='40' y='15' fill='#eee'>plot</text></svg>"
    )
    browser.open(bad, width=400, scheme="light")
    seen = browser.ask(SCRIPT)
    assert seen["scrollWidth"] == 2000
    assert seen["beyond"] == ["DIV wide"]
    assert seen["clipped"] == ["P this text is cut off here"]
    assert seen["undescribed"] == 1
    assert any("faint" in one for one in seen["faint"])
    assert any("plot" in one for one in seen["faint"])


def test_it_prints_in_light_colours(
    browser: Chromium, pages: dict[str, Path], tmp_path: Path
) -> None:
    browser.open(pages["run"], width=1280, scheme="dark")
    browser.pdf(tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content[:5] == b"%PDF-"
    assert 1 < content.count(b"/Type /Page\n") < 20
