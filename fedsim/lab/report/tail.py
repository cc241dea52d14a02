"""The last parts of a run's page: guarantee, utility, cost, manifest."""

from statistics import fmean
from typing import Any

import tomli_w

from fedsim.errors import MalformedMessage
from fedsim.files import read_json
from fedsim.lab.report.page import Section
from fedsim.lab.report.plots.timeline import utility_plot
from fedsim.lab.report.words import percent
from fedsim.lab.store.run import RunDirectory
from fedsim.lab.store.summary import Summary

NOT_TRAINED = "These are attacks on what a run captured: the run's own report says what it learned."


def guarantee_section(summary: Summary) -> Section:
    """Return what the defense promises, whatever an attack reads today."""
    said = summary.guarantee
    sentences = [] if said else ["No defense in this run gives a privacy guarantee."]
    facts = [(str(name), _said(value)) for name, value in (said or {}).items()]
    facts += [(f"bound: {name}", _said(v)) for name, v in _items(summary.bound or {})]
    bounds = [one.bound["exact_match"] for one in summary.attacks if "exact_match" in one.bound]
    if bounds:
        text = f"{percent(fmean(bounds))} of the texts of an update, on average over updates"
        facts.append(("Any attack reads word for word at most", text))
    wire = dict(summary.wire) if isinstance(summary.wire, dict) else {}
    for one in wire.pop("defenses", []):
        figures = {k: v for k, v in one.items() if k != "defense"}
        facts.append((f"on the wire: {one.get('defense')}", _said(figures)))
    facts += [(f"on the wire: {name}", _said(value)) for name, value in wire.items()]
    return Section(anchor="guarantee", title="Guarantee and bound", words=sentences, facts=facts)


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(k), v) for k, v in value.items()]
    return [("value", value)]


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "; ".join(map(_said, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(one)}" for name, one in _items(value))
    return str(value)


def utility_section(summary: Summary) -> Section:
    """Return how good the model became."""
    used = summary.utility
    if used is None:
        sentence = "It was not measured: data.evaluate is 0." if summary.rounds else NOT_TRAINED
        return Section(anchor="utility", title="Utility", words=[sentence])
    more = {name: value for name, value in used.figures().items() if name != used.metric}
    return Section(
        anchor="utility",
        title="Utility",
        words=[f"{used.metric}: {used.before:.3f} before training, {used.after:.3f} after."],
        facts=[(name, _said(value)) for name, value in more.items()],
        plots=[utility_plot(used)] if len(used.per_round) > 1 else [],
    )


def cost_section(run: RunDirectory, summary: Summary) -> Section:
    """Return what training and attacks took, and what went over the wire."""
    attacking: dict[str, float] = {}
    for one in summary.attacks:
        attacking[one.attack] = attacking.get(one.attack, 0.0) + one.seconds
    spent = f"{summary.seconds:,.1f} s, attacks and their controls included"
    facts = [("All rounds", spent)] if summary.rounds else []
    facts += [(f"{name}, without controls", f"{value:,.1f} s") for name, value in attacking.items()]
    up = [path.stat().st_size for path in run.captures.glob("round=*/client=*/update.safetensors")]
    if isinstance(summary.wire, dict) and "bytes_up" in summary.wire:
        text = f"{summary.wire['bytes_up'] / 1e6:,.3g} MB an update, as its defense encodes it"
        facts.append(("Sent up", text))
    if up:
        text = f"{fmean(up) / 1e6:,.2f} MB an update, {sum(up) / 1e6:,.1f} MB in all"
        facts.append(("Captured updates", text))
    if summary.failures:
        facts.append(("Clients that failed", str(len(summary.failures))))
    return Section(anchor="cost", title="Cost", facts=facts)


def manifest_section(run: RunDirectory) -> Section:
    """Return what it takes to run the same again."""
    return Section(
        anchor="manifest",
        title="Manifest",
        facts=manifest_facts(run),
        code=[("The config, resolved", tomli_w.dumps(run.config().as_toml()))],
    )


def manifest_facts(run: RunDirectory) -> list[tuple[str, str]]:
    """Return what manifest.json says; that it is broken is no reason to have no report."""
    try:
        manifest = read_json(run.root / "manifest.json")
    except MalformedMessage:
        manifest = None
    if not isinstance(manifest, dict):
        return [("manifest.json", "missing or broken")]
    versions = manifest.pop("versions", {})
    facts = [(str(name), _said(value)) for name, value in manifest.items()]
    return [*facts, ("versions", ", ".join(f"{k} {v}" for k, v in _items(versions) if v))]
