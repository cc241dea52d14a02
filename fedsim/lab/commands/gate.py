"""``fedsim gate``: a run or a sweep against a policy, for a CI job."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fedsim.lab.commands.base import FINE, INCONCLUSIVE, LEAK, importing, new_command, redacts

EXAMPLES = """examples:
  fedsim gate runs/mine --policy policy.toml
  fedsim gate runs/mine --policy policy.toml --junit gate.xml --markdown gate.md --json
exit codes: 0 passed, 1 not what the policy allows, 2 bad policy or input, 3 inconclusive"""
CODES = {"pass": FINE, "fail": LEAK, "inconclusive": INCONCLUSIVE}


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    gate = new_command(commands, "gate", _gate, "hold results against a policy", EXAMPLES)
    gate.add_argument("directory", type=Path, metavar="DIR", help="a finished run, or a sweep")
    gate.add_argument("--policy", type=Path, required=True, help="a TOML file with the thresholds")
    gate.add_argument("--json", action="store_true", help="print JSON and nothing else")
    gate.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    gate.add_argument("--markdown", type=Path, metavar="FILE", help="write a Markdown table")


def _gate(options: argparse.Namespace) -> int:
    with importing():
        from fedsim.files import write_text
        from fedsim.lab import gate
        from fedsim.lab.store.quoting import redacted_result
        from fedsim.lab.store.sweep import read_results
        from fedsim.printing import printable, printable_json

    results = read_results(options.directory)
    if redacts(options):
        results = [redacted_result(result) for result in results]
    summaries = [result.summary for result in results if result.summary is not None]
    attacks = {name for summary in summaries for name in summary.verdicts}
    policy = gate.read_policy(
        options.policy,
        attacks=attacks,
        utilities={
            name for summary in summaries if summary.utility for name in summary.utility.figures()
        },
    )
    for name in gate.unnamed(policy, attacks):
        print(f"fedsim: nothing in the policy is about {printable(name)}", file=sys.stderr)
    checks = [
        check
        for result in results
        for check in gate.judge(policy, result.name, result.summary or str(result.error))
    ]
    if options.junit:
        write_text(options.junit, gate.as_junit(checks))
    if options.markdown:
        write_text(options.markdown, gate.as_markdown(checks))
    if options.json:
        print(printable_json(gate.as_dict(checks)))
    else:
        print(gate.as_text(checks))
    return CODES[gate.overall(checks)]
