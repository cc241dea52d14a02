"""``fedsim attack``: captured updates, attacked again or elsewhere."""

import argparse
from pathlib import Path
from typing import Any

from fedsim.lab.commands.base import (
    common_options,
    display_for,
    importing,
    new_command,
    show,
)

EXAMPLES = """examples:
  fedsim attack runs/mine --attack dager            what a run captured, attacked again
  fedsim attack captures/ --attack dager model.name=gpt2 --truth texts.jsonl
  fedsim attack captures/ --attack lamp model.name=gpt2 training.learning_rate=1e-3
  fedsim attack runs/mine --attack dager rounds=[1] clients=[0,2] --json
exit codes: 0 fine, 2 bad input, 3 the verdict is inconclusive, 4 the attack failed"""


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    attack = new_command(commands, "attack", _attack, "attack captured updates", EXAMPLES)
    attack.add_argument("captures", type=Path, help="a captures directory, or a run")
    attack.add_argument("words", nargs="*", metavar="key=value", help="the attack's parameters")
    attack.add_argument("--attack", required=True, help="its name, see `fedsim list attacks`")
    attack.add_argument("--out", type=Path, help="where the results go")
    attack.add_argument(
        "--truth",
        type=Path,
        metavar="FILE",
        help="what the clients trained on, of a project that is not fedsim's own: csv, tsv, jsonl "
        "or parquet with the columns text and client (or node), and maybe round and label",
    )
    attack.add_argument(
        "--public",
        type=Path,
        metavar="FILE",
        help="texts like the clients' that none of them trained on, for attacks on membership: a "
        "file with the column text, and label where clients classify",
    )
    common_options(attack)


def _attack(options: argparse.Namespace) -> int:
    with importing(attacks=True):
        from fedsim.lab.run.replay import prepare_replay, run_replay
        from fedsim.lab.store.lock import held

    with display_for(options) as display:
        display.step("reading the captures")
        replay = prepare_replay(
            options.captures,
            options.attack,
            options.words,
            options.out,
            options.truth,
            options.public,
        )
        display.say(f"{len(replay.captures)} captures, results in {replay.out}")
        with held(replay.out):
            summary, scores = run_replay(replay, display, quick=options.quick)
    return show(options, summary, scores, replay.adapter)
