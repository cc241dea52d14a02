"""``fedsim train-prior``: a small language model of public text, for attacks that can use one."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput
from fedsim.lab.commands.base import FINE, importing, new_command

EXAMPLES = """examples:
  fedsim train-prior builtin:bert-tiny --data news.txt --out priors/news
  fedsim train-prior path/or/hub-id --data wikitext2 --path data/wikitext2 --out priors/wiki
  fedsim attack runs/mine --attack lamp prior=priors/wiki
The text must be public, and none of the clients': take another data set than the experiment's, or
a file of texts that no client holds."""


def add(commands: Any) -> None:
    """Add the command to the parser's ``commands``."""
    prior = new_command(
        commands, "train-prior", _train, "train a small language model of public text", EXAMPLES
    )
    prior.add_argument("model", help="the model under attack: the prior gets its tokenizer")
    prior.add_argument("--tokenizer", default="", help="where it is not the model's own")
    prior.add_argument("--data", required=True, help="a data set or a file, see `fedsim list data`")
    prior.add_argument("--path", default="", help="a folder with a named data set's raw files")
    prior.add_argument("--out", type=Path, required=True, help="a new directory for the prior")
    for name, kind in (("width", int), ("layers", int), ("epochs", int), ("seed", int)):
        prior.add_argument(f"--{name}", type=kind, default=None)


def _train(options: argparse.Namespace) -> int:
    with importing():
        from clients.chat import rendered
        from clients.data import DataSettings, load_corpus
        from fedsim.lab.run.priors import EVERY, HELD_OUT, PriorSettings, save_prior, train_prior
        from fedsim.lab.terminal.run import Terminal
        from fedsim.models import ModelSpec, load_adapter

    names = ("width", "layers", "epochs", "seed")
    given = {name: getattr(options, name) for name in names}
    settings = PriorSettings(**{k: v for k, v in given.items() if v is not None})
    if options.out.exists():
        raise BadInput(f"--out: {str(options.out)!r} is there already; name a new directory")
    spec = ModelSpec(name=options.model, tokenizer=options.tokenizer, weights="random")
    tokenizer = load_adapter(spec).tokenizer
    data = DataSettings(name=options.data, path=options.path, evaluate=0)
    corpus = load_corpus(data, settings.seed)
    texts: list[str] = corpus.train["text"][:]
    texts = rendered(tokenizer, texts) if corpus.chat else texts
    held_out = texts[::EVERY][:HELD_OUT]
    kept = set(held_out)
    texts = [text for text in texts if text not in kept]
    with Terminal() as display:
        display.say(f"{len(texts)} texts of {options.data}")
        model, figures = train_prior(tokenizer, texts, held_out, settings, display.step)
        save_prior(
            options.out,
            model,
            tokenizer,
            {"data": options.data, "model": options.model, **asdict(settings), **figures},
        )
        for name, value in figures.items():
            display.say(f"{name}: {value:.1f}")
        display.say(f"written to {options.out}")
    return FINE
