"""What every attack in the table must keep, whatever it does."""

import functools
import json
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks import ATTACKS, Attack
from fedsim.captures import find_captures, place, read_capture, write_capture
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Broadcast, Knowledge, Observation, Reconstruction, Texts, Update
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
from fedsim.types import Tokens
from tests.conftest import Adapt, Gradient, Sentences, initial

NAMES = sorted(ATTACKS)
# settings that keep an attack's runs here to seconds
CHEAP: dict[str, dict[str, Any]] = {
    "dlg": {"optimizer": "lbfgs", "steps": 8, "learning_rate": 1.0, "deviation": 0.05},
    "grab": {
        "alternations": 1,
        "steps": 15,
        "starts": 2,
        "iterations": 1,
        "beams": 2,
        "learning_rate": 0.1,
    },
    "lamp": {"steps": 15, "starts": 2, "tries": 2, "learning_rate": 0.1},
    "lti": {"samples": 64, "step": 1, "passes": 2, "width": 32, "features": 128},
    "partial": {"steps": 15, "starts": 2, "tries": 2, "learning_rate": 0.1, "layers": (0, 2)},
    "tag": {"steps": 40, "learning_rate": 0.1, "deviation": 0.05},
    "film": {"beams": 2, "starts": 6, "kept": 4, "passes": 1, "tries": 7},
}
NEXT_TOKEN = ("film", "labels")  # attacks that see a decoder's next-token loss
ONE_SHORT_TEXT = tuple(CHEAP)  # attacks that see one text of six random tokens, not two sentences
# A run of DAGER takes a moment, of the others seconds.
SLOW = [pytest.param(name, marks=[pytest.mark.slow] * (name != "dager")) for name in NAMES]
BLOCKED = ("clients", "defenses", "server", "flwr", "ray", "fedsim.lab", "fedsim.vault")
SEED = 11

# Run elsewhere: replays every capture under argv[1] with the pickled attacks of argv[2].
REPLAY = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None  # whatever imports it fails
import json, pathlib, pickle
import torch
from fedsim.errors import UnsupportedObservation
from fedsim.captures import find_captures, read_capture
from fedsim.messages import Knowledge, Observation
from fedsim.models import ModelAdapter, ModelSpec, load_adapter
torch.set_num_threads(1)
guesses = {{}}
for name, (attack, knowledge) in pickle.loads(pathlib.Path(sys.argv[2]).read_bytes()).items():
    captured = read_capture(find_captures(pathlib.Path(sys.argv[1]) / name)[0])
    lists = {{k: tuple(v) if isinstance(v, list) else v for k, v in captured.model.items()}}
    observation = Observation(
        model=load_adapter(ModelSpec(**lists)),
        broadcast=captured.broadcast,
        update=captured.update,
        knowledge=knowledge,
    )
    guess = attack.reconstruct(observation, torch.Generator().manual_seed({SEED}))
    guesses[name] = [guess.sequences, dict(guess.diagnostics), guess.scores, guess.members]
assert not any(sys.modules.get(name) for name in {BLOCKED!r})
print(json.dumps(guesses))
"""


@dataclass
class Case:
    """One attack, what its paper grants it, and an undefended client's update to work on."""

    attack: Attack
    observation: Observation
    truth: list[Tokens]
    others: list[list[Tokens]]  # batches of other clients

    def said(self, guess: Reconstruction) -> tuple[Tokens, ...]:
        """Return what the attack says was there: what it read, or recognised."""
        asked = self.observation.knowledge.candidates
        if asked is None:
            return guess.sequences
        pairs = zip(asked.sequences, guess.members, strict=True)
        return tuple(tokens for tokens, called in pairs if called)

    def run(self, observation: Observation | None = None) -> Reconstruction:
        shown = observation or self.observation
        return self.attack.reconstruct(shown, torch.Generator().manual_seed(SEED))

    @functools.cached_property
    def guess(self) -> Reconstruction:
        """What the attack makes of the update: made once, as it takes seconds."""
        return self.run()


def random_text(model: ModelAdapter, seed: int) -> list[Tokens]:
    """Return one sequence of six random tokens, special ones around them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(300, len(model.tokenizer), (6,), generator=generator).tolist()
    return [(*model.prefix, *ids, *model.suffix)]


def texts(sequences: Sequence[Tokens]) -> Texts:
    """Return sequences with the labels 0, 1, 0, 1, ..."""
    labels = tuple(row % 2 for row in range(len(sequences)))
    return Texts(sequences=tuple(sequences), labels=labels)


@pytest.fixture(scope="module")
def cases(adapt: Adapt, gradient: Gradient, sentences: Sentences) -> dict[str, Case]:
    made = {}
    for name, kind in ATTACKS.items():
        decoder = name in ("dager", *NEXT_TOKEN)
        family = next(iter(kind.families), "gpt2" if decoder else "bert")
        task = "causal-lm" if name in NEXT_TOKEN else "classification"
        model = adapt(f"{family}-tiny", task=task)
        truth = sentences(model, 2)
        others = [sentences(model, 2, skip=skip) for skip in range(20, 120, 2)]
        if name in ONE_SHORT_TEXT:
            truth, *others = (random_text(model, place) for place in range(51))
        labels = tuple(range(len(truth)))
        facts: dict[str, Any] = {
            "labels": labels,
            "lengths": tuple(map(len, truth)),
            "batch_size": len(truth),
            "candidates": texts([*truth, *others[0], *others[1]]),
            "public": texts([tokens for batch in others[2:] for tokens in batch]),
            "defense": (),
        }
        parameters = initial(model)
        update = gradient(model, parameters, truth, labels)
        observation = Observation(
            model=model,
            broadcast=Broadcast(round=1, parameters=parameters),
            update=Update(tensors=update, kind="gradient", num_examples=len(truth)),
            knowledge=Knowledge(
                **{name: facts[name] for name in (*kind.paper_knowledge, *kind.needs)}
            ),
        )
        made[name] = Case(
            attack=kind(**CHEAP.get(name, {})),
            observation=observation,
            truth=truth,
            others=others,
        )
    return made


@pytest.fixture(params=SLOW)
def case(request: Any, cases: dict[str, Case]) -> Case:
    return cases[request.param]


def write(observation: Observation, directory: Path) -> None:
    """Write what was observed of client 0 as the tap does."""
    model = observation.model.spec.as_dict()
    write_capture(directory, 0, observation.broadcast, observation.update, model)


@pytest.fixture(scope="module")
def elsewhere(request: Any, cases: dict[str, Case], tmp_path_factory: Any) -> dict[str, Any]:
    """Return the attacks' guesses from captures on disk, in a process that knows no clients."""
    root = tmp_path_factory.mktemp("captures")
    test = test_the_same_guess_where_clients_cannot_be_imported
    asked = {
        item.callspec.params["name"] for item in request.session.items if item.function is test
    }
    cases = {name: cases[name] for name in asked}
    for name, case in cases.items():
        write(case.observation, place(root / name, 1, 0))
    pickled = root / "attacks.pickle"
    attacks = {name: (case.attack, case.observation.knowledge) for name, case in cases.items()}
    pickled.write_bytes(pickle.dumps(attacks))
    command = [sys.executable, "-c", REPLAY, str(root), str(pickled)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    guesses: dict[str, Any] = json.loads(done.stdout)
    return guesses


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_same_guess_where_clients_cannot_be_imported(
    cases: dict[str, Case], elsewhere: dict[str, Any], name: str
) -> None:
    guess = cases[name].guess
    sequences, diagnostics, scores, members = elsewhere[name]
    assert tuple(map(tuple, sequences)) == guess.sequences
    assert (tuple(scores), tuple(members)) == (guess.scores, guess.members)
    assert diagnostics == dict(guess.diagnostics)


def replayed(observation: Observation, directory: Path) -> Observation:
    """Return the observation as its capture on disk has it."""
    write(observation, place(directory, 1, 0))
    captured = read_capture(find_captures(directory)[0])
    lists: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in captured.model.items()}
    return Observation(
        model=load_adapter(ModelSpec(**lists)),
        broadcast=captured.broadcast,
        update=captured.update,
        knowledge=observation.knowledge,
    )


def test_a_captures_guess_is_the_seeds_and_inputs_come_back_as_they_were(
    case: Case, tmp_path: Path
) -> None:
    """The observation read from its capture gives the guess of the observation."""
    observation = replayed(case.observation, tmp_path)
    broadcast, update = observation.broadcast, observation.update
    before = [
        {name: tensor.clone() for name, tensor in tensors.items()}
        for tensors in (update.tensors, broadcast.parameters)
    ]
    shown = (observation.knowledge, broadcast.config, update.metrics, case.attack)
    record = repr(shown)
    wanted = case.guess  # made elsewhere in the global stream: one that drew would differ
    torch.manual_seed(1)
    random.seed(1)
    state, chance = torch.get_rng_state(), random.getstate()
    guess = case.run(observation)
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == chance
    assert guess == wanted
    for tensors, kept in zip((update.tensors, broadcast.parameters), before, strict=True):
        assert list(tensors) == list(kept)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in kept.items())
    assert repr(shown) == record


def overlap(guess: Sequence[Tokens], truth: Sequence[Tokens]) -> float:
    """Return the F-measure of the bags of tokens."""
    guessed, true = (Counter(token for ids in texts for token in ids) for texts in (guess, truth))
    return 2 * (guessed & true).total() / max(1, guessed.total() + true.total())


@pytest.mark.parametrize("null", ["zeros", "noise", "another client"])
def test_a_null_update_gives_what_chance_gives(case: Case, gradient: Gradient, null: str) -> None:
    observation, generator = case.observation, torch.Generator().manual_seed(0)
    if null == "another client":
        parameters = dict(observation.broadcast.parameters)
        update = gradient(observation.model, parameters, case.others[0], range(len(case.truth)))
    else:
        size = float(null == "noise")
        update = {
            name: size * torch.randn(tensor.shape, generator=generator)
            for name, tensor in observation.update.tensors.items()
        }
    other = Observation(
        model=observation.model,
        broadcast=observation.broadcast,
        update=Update(tensors=update, kind="gradient", num_examples=len(case.truth)),
        knowledge=observation.knowledge,
    )
    if not any(tensor.any() for tensor in update.values()) and observation.knowledge.candidates:
        with pytest.raises(UnsupportedObservation, match="zeros alone"):
            case.run(other)
        return
    guess = case.said(case.run(other))
    assert not set(guess) & set(case.truth)
    # the truth scores no better than the best of 49 batches that have as little to do with it
    assert overlap(guess, case.truth) <= max(overlap(guess, batch) for batch in case.others[1:])


def test_the_update_itself_gives_more_than_chance(case: Case) -> None:
    guess = case.said(case.guess)
    assert overlap(guess, case.truth) > max(overlap(guess, batch) for batch in case.others)


def test_a_guess_is_token_ids_and_numbers(case: Case) -> None:
    guess = case.guess
    vocabulary = case.observation.model.vocabulary
    assert all(type(token) is int for ids in guess.sequences for token in ids)
    assert all(0 <= token < vocabulary for ids in guess.sequences for token in ids)
    assert {type(note) for note in guess.diagnostics.values()} <= {bool, int, float}
    json.dumps(dict(guess.diagnostics), allow_nan=False)  # no NaN into a record


@pytest.mark.parametrize("name", NAMES)
def test_the_repr_is_the_record(name: str) -> None:
    attack = ATTACKS[name](**CHEAP.get(name, {}))
    settings = ", ".join(
        f"{field.name}={getattr(attack, field.name)!r}" for field in fields(attack)
    )
    assert repr(attack) == f"{type(attack).__name__}({settings})"
    assert eval(repr(attack), {type(attack).__name__: type(attack)}) == attack


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_is_frozen_hashable_and_survives_pickling(name: str) -> None:
    attack = ATTACKS[name]()
    again = pickle.loads(pickle.dumps(attack))
    assert again == attack and hash(again) == hash(attack)
    for field in fields(attack):
        assert field.kw_only
        with pytest.raises(FrozenInstanceError):
            setattr(attack, field.name, getattr(attack, field.name))


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_says_where_it_is_from_and_what_it_assumes(name: str) -> None:
    module = sys.modules[ATTACKS[name].__module__]
    header = module.__doc__ or ""
    places = [header.find(f"\n{part}:") for part in ("Source", "Assumes", "Recovers", "Deviations")]
    assert -1 not in places and places == sorted(places)
    assert set(ATTACKS[name].paper_knowledge) <= set(Knowledge.names())
