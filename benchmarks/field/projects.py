"""Claim: real Flower projects with the tap's one line train to their end, and what is read of them.

    git clone https://github.com/adap/flower FLOWER
    python benchmarks/run.py field/projects --flower FLOWER [--only opacus ...]

Six examples of Flower's repository, as HEAD of the checkout has them, are copied aside, get small
patches (rows from the disk, a small model, notes of the truth; each is in the result file) and the
documented line, and are trained to their end by Flower's own simulation, with the line and
without it. Then ``fedsim inspect`` and ``fedsim attack`` look at what was captured: as the project
trains, and of a control that differs in what is said to be in the way. Packages that a project
imports and that are not installed have stand-ins (``inside/absent``); the file says which. Writes
results/field_projects.json, a cell at a time.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import Any

from common.results import Cell, Results, arguments, markdown, start
from field.language import FLOWERTUNE, HUGGINGFACE
from field.looking import captured_right, inspected, read
from field.recipes import Project, Variant
from field.running import Ran, Workplace, absent_of, same_parameters
from field.sources import Checkout
from field.vision import CUSTOM_MODS, OPACUS, SECAGG, STEP_BY_STEP

PROJECTS = {
    each.name: each for each in (HUGGINGFACE, FLOWERTUNE, STEP_BY_STEP, OPACUS, CUSTOM_MODS, SECAGG)
}


def measure(
    project: Project, variant: Variant, checkout: Checkout, seed: int, keep: Path | None
) -> Cell:
    """Return what became of a project, and what was read of it.

    Args:
        project: one of the six.
        variant: how it is run.
        checkout: where its sources are.
        seed: of its model's head, rows and training.
        keep: a directory for projects, captures and truths, which stay; None: they do not.
    """
    with contextlib.ExitStack() as stack:
        work = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="field")))
        folder = work / f"{project.package}-{project.variants.index(variant)}"
        folder.mkdir(parents=True)
        place = Workplace(folder, project, variant, checkout, seed)
        tapped = place.run("tapped", tap=True)
        cell: Cell = {
            "why": variant.why,
            "patches": [f"{patch.file}: {patch.why}" for patch in place.patches],
            "config": dict(place.config),
            "absent": absent_of(project),
            "supernodes": project.supernodes,
            "rows": variant.rows,
            "ended": tapped.ended,
            "training_seconds": tapped.seconds,
        }
        if not tapped.ended:
            return {**cell, "error": tapped.error}
        if variant is project.variants[0]:
            cell["same_parameters"] = _same(place, tapped)
        cell["captured"] = captured_right(tapped)
        cell["inspect"] = inspected(tapped.captures)
        cell["attack"] = read(tapped, place.words())
        return cell


def _same(place: Workplace, tapped: Ran) -> dict[str, Any]:
    """Compare the tapped run's last parameters with those of a run without the tap.

    Where they differ, two runs without it tell whether the project is the same twice at all.
    """
    plain = place.run("plain", tap=False)
    found = same_parameters(tapped, plain)
    if found["same"]:
        return found
    return {**found, "without_tap_twice": same_parameters(plain, place.run("again", tap=False))}


def main() -> None:
    """Measure every cell that is not there yet."""
    parser = arguments(str(__doc__))
    parser.add_argument("--flower", type=Path, required=True, help="a git checkout of Flower")
    parser.add_argument("--only", nargs="+", choices=PROJECTS, default=list(PROJECTS))
    parser.add_argument("--work", type=Path, help="a new directory where all of it stays")
    parser.set_defaults(threads=1)
    options: argparse.Namespace = parser.parse_args()
    checkout = Checkout(options.flower)
    commit = checkout.commit()
    results: Results = start(
        options, "field_projects", "real Flower projects train to their end under the tap"
    )
    results.head["flower"] = commit
    for name in options.only:
        for variant in PROJECTS[name].variants:
            settings = {"seed": options.seed, "flower": commit}

            def work(name: str = name, variant: Variant = variant) -> Cell:
                return measure(PROJECTS[name], variant, checkout, options.seed, options.work)

            results.cell(f"{name}, {variant.name}", settings, work)
    print(markdown(["project", "ended", "captured", "read"], map(_line, results.cells.items())))


def _line(named: tuple[str, Cell]) -> list[object]:
    name, cell = named
    attack = cell.get("attack", {})
    told = f"{attack['exact']} of {attack['samples']}" if "exact" in attack else attack.get("said")
    return [name, cell["ended"], cell.get("captured", {}).get("right"), told]


if __name__ == "__main__":
    main()
