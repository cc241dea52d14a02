"""``fedsim run``: federated rounds, attacked as configured."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput
from fedsim.lab.commands.base import (
    common_options,
    display_for,
    importing,
    is_path,
    need_config,
    new_command,
    secret_option,
    show,
)
from fedsim.lab.isolation.processes import none_needed

EXAMPLES = """examples:
  fedsim run                                        the built-in quick start, offline
  fedsim run experiment.toml                        an experiment of your own
  fedsim run experiment.toml training.batch_size=8 model.task=causal-lm
  fedsim run experiment.toml 'attack=[{name="dager", rounds=[1]}]' --out runs/mine
  fedsim run --out runs/mine --resume               go on with a run that was killed
exit codes: 0 fine, 2 bad input, 3 an attack's verdict is inconclusive, 4 the run failed"""


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    run = new_command(commands, "run", _run, "run federated rounds and attack them", EXAMPLES)
    run.add_argument(
        "words", nargs="*", metavar="[CONFIG] [key=value ...]",
        help="a TOML file (default: the built-in quick start), and keys to override",
    )  # fmt: skip
    run.add_argument("--out", type=Path, help="the run's directory (default: under runs/)")
    run.add_argument("--resume", action="store_true", help="go on with the run in --out")
    secret_option(run)
    common_options(run)


def _run(options: argparse.Namespace) -> int:
    need_config(options.words)
    with importing(attacks=True):
        from fedsim.lab.config import load_config
        from fedsim.lab.config.paths import absolute
        from fedsim.lab.run.checks import check_longer
        from fedsim.lab.run.experiment import run_experiment
        from fedsim.lab.run.prepare import prepare
        from fedsim.lab.run.secrecy import give_secret, read_secret
        from fedsim.lab.store.changes import begun_with
        from fedsim.lab.store.lock import held
        from fedsim.lab.store.run import RunDirectory
    words = list(options.words)
    path = Path(words.pop(0)) if words and is_path(words[0]) else None
    if options.resume:
        if options.out is None or path is not None or words or options.secret:
            raise BadInput(
                "--resume goes on with the run in --out DIR, and takes no other config or secret"
            )
        run = RunDirectory(options.out)
        config = run.config()
        began = begun_with(run.root, config, quick=options.quick)
    else:
        began = config = absolute(load_config(path, words))
        run = RunDirectory(options.out) if options.out else RunDirectory.default(config)

    secret = read_secret(options.secret) if options.secret else None
    if not config.attack:
        none_needed()
    with display_for(options, attacks=bool(config.attack)) as display:
        display.step("checking the model and the data")
        experiment = prepare(config)
        if began.federation.rounds < config.federation.rounds:
            check_longer(prepare(began).defenses, experiment.defenses, config)
        with held(run.root):
            if not options.resume:
                run.check_free()
                if secret is not None:  # first: what is begun without it goes on without it
                    give_secret(run.vault, experiment.defenses, secret)
                run.create(config, quick=options.quick, command=options.typed)
            for note in experiment.notes:
                display.say(note)
            display.say(f"{config.name}: {config.federation.rounds} rounds, results in {run.root}")
            try:
                summary, scores = run_experiment(experiment, run, display, quick=options.quick)
            except BaseException:
                again = shlex.quote(str(run.root))
                display.say(f"stopped; go on with: fedsim run --out {again} --resume")
                raise
    return show(options, summary, scores, experiment.adapter)
