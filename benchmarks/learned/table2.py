"""LTI reads text from signs, from a hundredth of the entries and out of noise: its paper's Table 2.

WikiText-2: valid is the auxiliary text, blocks of 16 tokens of test are private, one a client, one
FedSGD gradient each of the paper's target (`builtin:breaching3`) at random weights. Defended by the
project's own defenses, of which the attack is told. The first token of a block is never predicted,
so it hardly shows in a gradient: accuracy stands with it and without it.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from common.places import DATA
from common.results import Cell, Results, arguments, code, start
from common.victims import Victim, victim

from attacks import Lti
from defenses import Defense, Gaussian, NoDefense, Sign, TopK
from fedsim.lab.run.attacking import in_force
from fedsim.local import LocalTraining
from fedsim.messages import Broadcast, Knowledge, Observation, Update
from fedsim.models import ModelSpec
from fedsim.rng import stream
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Tokens

DEFENSES: Mapping[str, Defense] = {
    "none": NoDefense(),
    "sign": Sign(),
    "prune 0.99": TopK(fraction=0.01),
    "gauss 0.01": Gaussian(clip=1e3, noise_multiplier=1e-5),  # clips nothing, std 0.01
}
PAPER = {  # token accuracy, arXiv:2210.10880v1, Table 2
    "TAG": {"none": 0.7413, "sign": 0.0, "prune 0.99": 0.3434, "gauss 0.01": 0.6434},
    "aux": {"none": 0.8961, "sign": 0.7115, "prune 0.99": 0.6679, "gauss 0.01": 0.8208},
    "unigram": {"none": 0.9114, "sign": 0.8806, "prune 0.99": 0.8619, "gauss 0.01": 0.9025},
}
START = "attacks.lti"  # whose code a cell's stamp is of
RESAMPLES = 2000


def target(preset: str, seed: int) -> Victim:
    """Return the paper's target, with GPT-2's tokenizer."""
    tokenizer = str(DATA / "tokenizers" / "gpt2")
    spec = ModelSpec(name=f"builtin:{preset}", tokenizer=tokenizer, task="causal-lm", seed=seed)
    return victim(spec)


def blocks(who: Victim, length: int, count: int, seed: int) -> list[Tokens]:
    """Return ``count`` blocks of the test text, drawn from all that there are."""
    path = DATA / "datasets" / "wikitext2" / "test.txt"
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    rows = who.adapter.tokenizer([line for line in lines if line], verbose=False)["input_ids"]
    whole = [token for row in rows for token in row]
    order = torch.randperm(len(whole) // length, generator=stream(seed, "blocks"))[:count]
    return [tuple(whole[at * length : (at + 1) * length]) for at in order.tolist()]


def seen(who: Victim, text: Tokens, defense: Defense, seed: int) -> Observation:
    """Return what the server sees of a client that holds ``text``."""
    training = LocalTraining(who.adapter, TrainingSettings())
    examples = Examples(sequences=(text,), labels=(None,))
    raw, _ = training(who.parameters, examples, stream(seed, "client"))
    update = dict(defense.protect(raw, stream(seed, "protect")))
    return Observation(
        model=who.adapter,
        broadcast=Broadcast(round=1, parameters=who.parameters),
        update=Update(tensors=update, kind="gradient", num_examples=1),
        knowledge=Knowledge(lengths=(len(text),), batch_size=1, defense=in_force([defense])),
    )


def measured(
    attack: Lti, who: Victim, sender: Victim, texts: Sequence[Tokens], defense: Defense
) -> Cell:
    """Attack each client's update; ``sender`` has other weights than ``who`` in a control."""
    guesses, notes = [], dict[str, Any]()
    for place, text in enumerate(texts):
        shown = seen(sender, text, defense, place)
        broadcast = Broadcast(round=1, parameters=who.parameters)
        shown = Observation(
            model=who.adapter, broadcast=broadcast, update=shown.update, knowledge=shown.knowledge
        )
        found = attack.reconstruct(shown, stream(place, "attack"))
        guesses.append(found.sequences[0])
        notes = dict(found.diagnostics)
    hits = torch.tensor(guesses) == torch.tensor(texts)  # (N, T)
    others = torch.tensor(guesses) == torch.tensor(texts).roll(1, dims=0)
    return {
        "accuracy": interval(hits),
        "without_slot_0": interval(hits[:, 1:]),
        "slot_0": interval(hits[:, :1]),
        "another_clients_update": interval(others),
        "exact_but_slot_0": float(hits[:, 1:].all(dim=1).float().mean()),
        "diagnostics": notes,
        "load": round(os.getloadavg()[0], 1),
    }


def interval(hits: torch.Tensor) -> dict[str, float]:
    """Return the mean with its 95 % bootstrap interval, clients resampled."""
    each = hits.double().mean(dim=1)
    rows = torch.randint(len(each), (RESAMPLES, len(each)), generator=stream(1, "bootstrap"))
    means = each[rows].mean(dim=1)
    low, high = means.quantile(0.025), means.quantile(0.975)
    return {"mean": float(each.mean()), "low": float(low), "high": float(high)}


def options_of() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = arguments(__doc__.split("\n", 1)[0])
    parser.add_argument("--samples", type=int, default=20480, help="simulated clients")
    parser.add_argument("--private", type=int, default=1000, help="clients that are attacked")
    parser.add_argument("--length", type=int, default=16, help="tokens of a client")
    parser.add_argument("--network", default="rows", help="rows or paper")
    parser.add_argument("--preset", default="breaching3", help="or breaching3-causal")
    parser.add_argument("--priors", nargs="+", default=["aux", "unigram"])
    parser.add_argument("--defenses", nargs="+", default=list(DEFENSES))
    parser.add_argument("--cache", default="", help="a directory for trained inverters")
    return parser.parse_args()


def fill(cells: Results, options: argparse.Namespace) -> None:
    """Measure the cells that are not there."""
    who = target(options.preset, options.seed)
    other = target(options.preset, options.seed + 1)
    texts = blocks(who, options.length, options.private, options.seed)
    for prior in options.priors:
        attack = Lti(
            auxiliary=str(DATA / "datasets" / "wikitext2" / "valid.txt"),
            prior=prior,
            network=options.network,
            samples=options.samples,
            step=1,
            cache=options.cache,
        )
        for name in options.defenses:
            settings = {
                "preset": options.preset, "prior": prior, "network": options.network,
                "samples": options.samples, "private": options.private, "length": options.length,
                "defense": repr(DEFENSES[name]),
            }  # fmt: skip
            label = f"{prior}, {name}, {options.network}, {options.preset}, L={options.length}"
            known = cells.cells.get(label)
            same = known is not None and known["settings"] == settings
            if known is not None and same and (options.keep or known["code"] == code(START)):
                print(f"{label}: already there", flush=True)
                continue
            print(f"{label}: measuring", flush=True)
            cell = measured(attack, who, who, texts, DEFENSES[name])
            wrong = measured(attack, who, other, texts[:100], DEFENSES[name])
            paper = PAPER[prior][name] if options.length == 16 else None
            cell |= {"other_weights": wrong["accuracy"], "paper": paper}
            cells.cells[label] = {"settings": settings, "code": code(START), **cell}
            cells.write()
            print(cell["accuracy"], cell["without_slot_0"], flush=True)


def main() -> None:
    """Measure what is not there yet."""
    options = options_of()
    claim = "LTI reads text from signs, from a hundredth of the entries and out of noise"
    cells = start(options, "learned_table2", claim, data="WikiText-2", weights="random")
    fill(cells, options)


if __name__ == "__main__":
    main()
