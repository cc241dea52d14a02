"""The command line: ``fedsim run | attack | list``."""

import argparse
import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedsim import __version__
from fedsim.errors import BadInput, FedsimError

FINE, BAD_INPUT, INCONCLUSIVE, FAILED, INTERRUPTED = 0, 2, 3, 4, 130

RUN_EXAMPLES = """examples:
  fedsim run                                        the built-in quick start, offline
  fedsim run experiment.toml                        an experiment of your own
  fedsim run experiment.toml training.batch_size=8 model.task=causal-lm
  fedsim run experiment.toml 'attack=[{name="dager", rounds=[1]}]' --out runs/mine
  fedsim run --out runs/mine --resume               go on with a run that was killed
exit codes: 0 fine, 2 bad input, 3 an attack's verdict is inconclusive, 4 the run failed"""

ATTACK_EXAMPLES = """examples:
  fedsim attack runs/mine --attack dager            what a run captured, attacked again
  fedsim attack captures/ --attack dager model.name=gpt2 model.task=causal-lm
  fedsim attack runs/mine --attack dager rounds=[1] clients=[0,2] --json
exit codes: 0 fine, 2 bad input, 3 the verdict is inconclusive, 4 the attack failed"""

LIST_EXAMPLES = """examples:
  fedsim list                                       everything
  fedsim list attacks --json"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors are one line on stderr."""
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    # argparse stops to collect words at the first option; those that follow belong to them.
    stray = [word for word in more if word.startswith("-") or not hasattr(options, "words")]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    if more:
        options.words += more
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except BadInput as error:
        return _complain(error, BAD_INPUT)
    except FedsimError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        print("fedsim: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left
        sys.stderr.close()
        return FAILED
    except Exception:  # a fault of ours: exit code 1 would say that a gate found a leak
        traceback.print_exc()
        print("fedsim: this is a bug; please report the lines above", file=sys.stderr)
        return FAILED


def _complain(error: Exception, code: int) -> int:
    from fedsim.lab.display import printable

    print(f"fedsim: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedsim",
        description="Federated fine-tuning of language models under a curious server.",
    )
    parser.add_argument("--version", action="version", version=f"fedsim {__version__}")
    commands = parser.add_subparsers(required=True, metavar="run | attack | list")
    run = _command(commands, "run", _run, "run federated rounds and attack them", RUN_EXAMPLES)
    run.add_argument(
        "words", nargs="*", metavar="[CONFIG] [key=value ...]",
        help="a TOML file (default: the built-in quick start), and keys to override",
    )  # fmt: skip
    run.add_argument("--out", type=Path, help="the run's directory (default: under runs/)")
    run.add_argument("--resume", action="store_true", help="go on with the run in --out")
    _common(run)
    attack = _command(commands, "attack", _attack, "attack captured updates", ATTACK_EXAMPLES)
    attack.add_argument("captures", type=Path, help="a captures directory, or a run")
    attack.add_argument("words", nargs="*", metavar="key=value", help="the attack's parameters")
    attack.add_argument("--attack", required=True, help="its name, see `fedsim list attacks`")
    attack.add_argument("--out", type=Path, help="where the results go")
    _common(attack)
    what = _command(commands, "list", _list, "list what there is", LIST_EXAMPLES)
    what.add_argument("kind", nargs="?", choices=["attacks", "defenses", "models", "data"])
    what.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], int],
    text: str,
    examples: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=function)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print summary.json and nothing else")
    parser.add_argument("--quick", action="store_true", help="skip the controls: no verdict then")


def _run(options: argparse.Namespace) -> int:
    from fedsim.lab.config import load_config
    from fedsim.lab.prepare import absolute, prepare
    from fedsim.lab.rundir import RunDirectory

    _quiet()
    words = list(options.words)
    path = Path(words.pop(0)) if words and "=" not in words[0] else None
    if options.resume:
        if options.out is None or path is not None or words:
            raise BadInput("--resume goes on with the run in --out DIR, and takes no other config")
        run = RunDirectory(options.out)
        config = run.config()
    else:
        config = absolute(load_config(path, words))
        run = RunDirectory(options.out) if options.out else RunDirectory.default(config)

    from fedsim.lab.experiment import run_experiment

    with _display(options) as display:
        display.step("checking the model and the data")
        experiment = prepare(config)
        if not options.resume:
            run.create(config)
        display.say(f"{config.name}: {config.federation.rounds} rounds, results in {run.root}")
        try:
            summary, scores = run_experiment(experiment, run, display, quick=options.quick)
        except BaseException:
            display.say(f"stopped; go on with: fedsim run --out {run.root} --resume")
            raise
    return _show(options, summary, scores, experiment.adapter)


def _attack(options: argparse.Namespace) -> int:
    _quiet()
    from fedsim.lab.replay import prepare_replay, run_replay

    with _display(options) as display:
        display.step("reading the captures")
        replay = prepare_replay(options.captures, options.attack, options.words, options.out)
        display.say(f"{len(replay.found)} captures, results in {replay.out}")
        summary, scores = run_replay(replay, display, quick=options.quick)
    return _show(options, summary, scores, replay.adapter)


def _quiet() -> None:
    """Keep the libraries' chatter from the terminal: ours is what the user asked for."""
    import fedsim.lab  # sets what Flower and Ray read when they are imported

    assert fedsim.lab
    logging.getLogger("flwr").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _display(options: argparse.Namespace) -> Any:
    from fedsim.lab.display import Display, StepHandler

    display = Display(quiet=options.json)
    logger = logging.getLogger("fedsim.attacks")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [StepHandler(display)]
    return display


def _show(options: argparse.Namespace, summary: dict[str, Any], scores: Any, adapter: Any) -> int:
    if options.json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        from fedsim.lab.display import SideBySide, print_summary

        with contextlib.suppress(BrokenPipeError, SystemExit):  # rich ends when the reader leaves
            print_summary(summary, scores, SideBySide(adapter))
    verdicts = [one["verdict"] for one in summary["verdicts"].values()]
    return INCONCLUSIVE if "inconclusive" in verdicts else FINE


def _list(options: argparse.Namespace) -> int:
    from fedsim.lab.catalogue import catalogue, print_catalogue

    found = catalogue(options.kind)
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_catalogue(found)
    return FINE


if __name__ == "__main__":
    sys.exit(main())
