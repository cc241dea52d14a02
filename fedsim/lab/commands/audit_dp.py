"""``fedsim audit-dp``: is the guarantee true? Canaries on the wire."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fedsim.lab.commands.base import (
    FINE,
    LEAK,
    display_for,
    importing,
    is_path,
    need_config,
    new_command,
    secret_option,
)
from fedsim.printing import printable_json

EXAMPLES = """examples:
  fedsim audit-dp 'defense={name="dp-sgd", noise_multiplier=2.0}' training.batch_size=0
  fedsim audit-dp experiment.toml --canaries 1000 --level 0.05
  fedsim audit-dp experiment.toml 'defense={name="gaussian", noise_multiplier=4.0}' --json
exit codes: 0 the claim stands, 1 the canaries refute it, 2 bad input, 4 the run failed"""


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    what = "audit a privacy guarantee by canaries in federated rounds"
    audit = new_command(commands, "audit-dp", _audit, what, EXAMPLES)
    audit.add_argument(
        "words", nargs="*", metavar="[CONFIG] [key=value ...]",
        help="a TOML file (default: the built-in quick start), and keys to override",
    )  # fmt: skip
    audit.add_argument("--canaries", type=int, default=500, help="how many (default: %(default)s)")
    audit.add_argument(
        "--level", type=float, default=0.01,
        help="the chance that a true claim is refuted: either bound too high "
        "(default: %(default)s)",
    )  # fmt: skip
    secret_option(audit)
    audit.add_argument("--out", type=Path, help="the audit's directory (default: under runs/)")
    audit.add_argument("--json", action="store_true", help="print audit.json and nothing else")


def _audit(options: argparse.Namespace) -> int:
    need_config(options.words)
    with importing():
        from fedsim.lab.canaries.audit import audited, run_audit
        from fedsim.lab.config import load_config
        from fedsim.lab.config.paths import absolute
        from fedsim.lab.run.prepare import prepare
        from fedsim.lab.run.secrecy import give_secret, read_secret
        from fedsim.lab.store.lock import held
        from fedsim.lab.store.run import RunDirectory
    words = list(options.words)
    path = Path(words.pop(0)) if words and is_path(words[0]) else None
    config = absolute(load_config(path, words)).model_copy(update={"attack": []})
    run = RunDirectory(options.out) if options.out else RunDirectory.default(config)

    secret = read_secret(options.secret) if options.secret else None
    with display_for(options, attacks=False) as display:
        display.step("checking the model and the data")
        experiment = prepare(config)
        audited(experiment.defenses)
        with held(run.root):
            run.check_free()
            if secret is not None:
                give_secret(run.vault, experiment.defenses, secret)
            run.create(config, command=options.typed)
            display.say(f"{config.name}: {options.canaries} canaries, results in {run.root}")
            audit = run_audit(experiment, run, options.canaries, options.level)
    if options.json:
        print(printable_json(audit.as_dict()))
    else:
        _print(audit)
    return FINE if audit.kept else LEAK


def _print(audit: Any) -> None:
    """Print what was claimed, what the canaries prove, and whether the claim stands."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    claim, bound, mu = audit.claimed, audit.bound, audit.mu
    sure = f"{1 - audit.level / 2:.2%}"
    console.print(
        f"claimed: epsilon {claim['epsilon']:.3f} at delta {claim['delta']:g} for one "
        f"{claim['unit']}; {claim['composition']}, {claim['sampling']} ({claim['accountant']})",
        soft_wrap=True,
    )
    console.print(
        f"one-run bound ({sure}): epsilon >= {bound.epsilon:.3f} ({bound.right} of "
        f"{bound.guesses} guesses right; all right would give {bound.cap:.3f})",
        soft_wrap=True,
    )
    console.print(
        f"Gaussian estimate: mu {mu.mean:.3f} a round, {mu.low:.3f} to {mu.high:.3f} (claimed "
        f"{audit.mu_claimed:.3f}); epsilon {audit.epsilon_estimate:.3f}, >= "
        f"{audit.epsilon_low:.3f} ({sure})",
        soft_wrap=True,
    )
    word, style = ("stands", "green") if audit.kept else ("is refuted", "bold red")
    console.print(f"[{style}]the claim {word}[/]")
