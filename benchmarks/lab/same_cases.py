"""What ``same.py`` runs on both checkouts: each case in an empty directory of its own.

A step is a command line of fedsim's, or ``copy FROM TO``; ``kill PLACE ...`` runs fedsim until it
is about to move a file into a place of that name, and kills it there. All of it is small: what is
looked for is a difference, not a good score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SMALL = "data.evaluate=16 federation.rounds=1 federation.clients_per_round=2 training.batch_size=2"
GPT2 = f"model.name=builtin:gpt2-tiny {SMALL}"
LLAMA = f"model.name=builtin:llama-tiny {SMALL}"
BERT = f"model.name=builtin:bert-tiny {SMALL}"
AVERAGED = "training.algorithm=fedavg training.mini_batch_size=2 training.batch_size=4"
CELLS = """name = "cells"
[model]
name = "builtin:{model}"
[data]
name = "builtin:clinic"
evaluate = {evaluate}
[federation]
clients_per_round = 1
[training]
batch_size = 2
mini_batch_size = 2
[[attack]]
{attack}
"""  # a sweep takes no key twice: its base is a file

LOOSE = """[utility]
accuracy = { min = 0.0 }
[verdict]
allow = ["leak", "no-leak", "inconclusive"]
"""
STRICT = """[leakage.dager]
bag_f1 = { max = 0.05 }
[verdict]
allow = ["no-leak"]
"""
PEOPLE = ("Ada", "Ben", "Cleo", "Dov", "Eve", "Finn")
MATTERS = ("room 12", "the bill", "a refund, again", "her pills", "the visit")
TEXTS = [
    f"{who} asked on {1 + len(who) + place} March about {what}"
    for place, who in enumerate(PEOPLE)
    for what in MATTERS
]
ROWS = "note,kind\n" + "".join(f'"{text}",{place % 2}\n' for place, text in enumerate(TEXTS))
OUTSIDER = """from dataclasses import dataclass
from typing import ClassVar
from attacks import Attack
from defenses import Defense
from fedsim.messages import Reconstruction

@dataclass(frozen=True, kw_only=True)
class Fragile(Defense):
    def wrap(self, training):
        def inside(parameters, examples, generator):
            if len(examples.sequences[0]) % 2:
                raise ValueError("an odd text")
            return training(parameters, examples, generator)
        return inside

@dataclass(frozen=True, kw_only=True)
class Crash(Attack):
    families: ClassVar = ("gpt2",)
    def _run(self, seen, generator):
        if seen.broadcast.round == 2:
            raise KeyError("a slip of its author")
        return Reconstruction(sequences=((1, 2, 3),))
"""
ENTRY_POINTS = """[fedsim.attacks]
crash = outsider:Crash
[fedsim.defenses]
fragile = outsider:Fragile
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run, in order, and the files that are there before."""

    name: str
    steps: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)


CASES = (
    Case(
        name="quick-start",
        steps=(
            "run --out plain",
            """run 'defense={name="topk", fraction=0.05}' --out topk --json""",
            "report plain",
            "gate plain --policy loose.toml --junit gate.xml --markdown gate.md",
            "gate plain --policy strict.toml --json",
            "compare plain topk",
            "compare plain topk --json",
            "copy plain redacted",
            "report redacted --redact",
            "attack plain --attack dager --json",
            "attack plain --attack tag steps=4 rounds=[1] clients=[1] knowledge=paper",
            "copy plain/captures alone/captures",
            "attack alone/captures --attack dager seed=3",
        ),
        files={"loose.toml": LOOSE, "strict.toml": STRICT},
    ),
    Case(
        name="gpt2-lm",
        steps=(f"run {GPT2} model.task=causal-lm training.wire_dtype=float16 --out a --quick",),
    ),
    Case(
        name="gpt2-fedavg-adamw",
        steps=(
            f"run {GPT2} {AVERAGED} training.local_epochs=3 training.optimizer=adamw "
            "training.learning_rate=1e-4 training.weight_decay=0.01 federation.rounds=2 "
            "federation.strategy=fedadam --out a",
        ),
    ),
    Case(name="llama-fedsgd", steps=(f"run {LLAMA} --out a",)),
    Case(
        name="llama-fedavg-lm",
        steps=(f"run {LLAMA} {AVERAGED} model.task=causal-lm training.local_epochs=2 --out a",),
    ),
    Case(name="bert-fedsgd", steps=(f"run {BERT} --out a", "report a")),
    Case(
        name="bert-fedavg-mlm",
        steps=(
            f"run {BERT} {AVERAGED} model.task=masked-lm training.optimizer=momentum "
            "training.learning_rate=1e-3 training.local_epochs=2 training.batch_size=2 --out a "
            """'attack={name="dager", max_searches=4, clients=[1]}'""",
        ),
    ),
    Case(
        name="gpt2-lora",
        steps=(f"""run {GPT2} model.lora_rank=64 'model.freeze=["embeddings"]' --out a""",),
    ),
    Case(
        name="llama-lora-fedavg",
        steps=(
            f"run {LLAMA} {AVERAGED} model.lora_rank=48 training.batch_size=1 "
            "training.optimizer=adamw training.learning_rate=1e-3 --out a",
        ),
    ),
    Case(
        name="dlg",
        steps=(
            f"""run {GPT2} 'attack={{name="dlg", steps=6, knowledge="paper"}}' --out adam""",
            f"""run {BERT} 'attack={{name="dlg", steps=20, optimizer="lbfgs"}}' --out lbfgs""",
        ),
    ),
    Case(
        name="tag",
        steps=(
            f"run {BERT} training.batch_size=1 --out a "
            """'attack={name="tag", steps=8, knowledge={labels=true, lengths=true}}'""",
        ),
    ),
    Case(
        name="lamp-prior",
        steps=(
            "train-prior builtin:gpt2-tiny --data lines.txt --out prior --width 32 --layers 1 "
            "--epochs 1",
            f"""run {GPT2} --out a 'attack={{name="lamp", steps=20, starts=3, tries=4, every=8, """
            """prior="prior", knowledge="paper", clients=[1]}'""",
        ),
        files={"lines.txt": "".join(f"{text} and again.\n" for text in TEXTS)},
    ),
    Case(
        name="membership",
        steps=(f"run {BERT} training.batch_size=4 --out a attack=membership",),
    ),
    Case(
        name="counts",
        steps=(
            f"run {BERT} {AVERAGED} training.optimizer=adamw --out a attack=[bag,labels]",
            f"run {GPT2} model.task=causal-lm --out b 'attack=[bag,labels,"
            """{name="film", beams=2, passes=1, tries=7}]'""",
            "report b",
        ),
    ),
    Case(
        name="partial",
        steps=(
            f"""run {LLAMA} --out a 'attack={{name="partial", steps=20, starts=3, tries=4, """
            """every=8, layers=[1], modules=["q", "p"], knowledge="paper", clients=[1]}'""",
        ),
    ),
    Case(
        name="grab-dropout",
        steps=(
            f"""run {BERT} training.dropout=true --out a 'attack={{name="grab", steps=8, """
            """starts=3, alternations=2, iterations=1, beams=2, knowledge="paper", clients=[1]}'""",
        ),
    ),
    Case(
        name="defenses",
        steps=(
            "sweep base.toml 'defense=none,topk,sign,quantize,random-mask,truncated-svd,dropout,"
            """freeze,ffa-lora,gaussian,{name="gaussian", noise_multiplier=1e-4}' --out a --json""",
            "report a",
            "gate a --policy strict.toml",
        ),
        files={
            "strict.toml": STRICT,
            "base.toml": CELLS.format(
                model="gpt2-tiny", evaluate=0, attack='name = "dager"\nknowledge.defense = true'
            ),
        },
    ),
    Case(
        name="told-of-defense",
        steps=("sweep base.toml defense=topk,sign,quantize --out a",),
        files={
            "base.toml": CELLS.format(
                model="bert-tiny",
                evaluate=0,
                attack='name = "tag"\nsteps = 4\n'
                "knowledge = { defense = true, labels = true, lengths = true }",
            )
        },
    ),
    Case(
        name="dp-sgd",
        steps=(
            f'run {GPT2} federation.rounds=2 --out a \'defense={{name="dp-sgd", '
            """target_epsilon=6.0}' 'attack={name="dager", rounds=[1], clients=[1]}'""",
            f'run {BERT} {AVERAGED} --out b --json \'defense={{name="dp-sgd", '
            """noise_multiplier=0.5}' 'attack={name="tag", steps=3, clients=[1]}'""",
            "report a",
        ),
    ),
    Case(
        name="secagg-central",
        steps=(
            f"run {GPT2} federation.clients_per_round=3 defense=secagg --out a",
            f"run {LLAMA} defense=central-dp federation.rounds=2 --out b --quick",
            "attack a --attack tag steps=3 knowledge.labels=true --json",
        ),
    ),
    Case(
        name="csv",
        steps=(
            f"run {GPT2} data.name=rows.csv data.text_column=note data.label_column=kind "
            "data.partition=dirichlet federation.clients=3 data.evaluate=6 --out a",
        ),
        files={"rows.csv": ROWS},
    ),
    Case(
        name="sweep",
        steps=(
            "sweep base.toml training.algorithm=fedavg seed=1,2 training.local_epochs=1,2 --out a "
            "--jobs 1",
            "sweep --out a --resume",
            "report a",
            "compare a/cells/seed=1,local_epochs=1-0382b025 a/cells/seed=1,local_epochs=2-3f61deda",
        ),
        files={"base.toml": CELLS.format(model="gpt2-tiny", evaluate=8, attack='name = "dager"')},
    ),
    Case(
        name="resume",
        steps=(
            f"kill captures/round=2/client= run {GPT2} {AVERAGED} federation.rounds=3 "
            "federation.strategy=fedadam training.dropout=true --out a",
            "copy a killed",
            "run --out a --resume",
        ),
    ),
    Case(
        name="audit-dp",
        steps=(
            f"audit-dp {GPT2} training.batch_size=0 --canaries 24 --out a "
            """'defense={name="dp-sgd", noise_multiplier=2.0}'""",
            f"audit-dp {GPT2} --canaries 24 --out b --json "
            """'defense={name="gaussian", noise_multiplier=4.0}'""",
        ),
    ),
    Case(
        name="outsider",
        steps=(
            "list attacks --json",
            f"run {GPT2} attack=crash defense=fragile federation.on_failure=continue "
            "federation.clients_per_round=4 federation.rounds=2 --out a",
            f"run {GPT2} defense=fragile federation.clients_per_round=4 --out b",
            "report a",
        ),
        files={
            "outsider.py": OUTSIDER,
            "outsider-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: outsider\nVersion: 1\n",
            "outsider-1.dist-info/entry_points.txt": ENTRY_POINTS,
        },
    ),
    Case(
        name="words",
        steps=(
            "list --json",
            "list",
            "--help",
            "run --help",
            "sweep --help",
            "attack --help",
            "report --help",
            "gate --help",
            "compare --help",
            "audit-dp --help",
            "train-prior --help",
            "list --help",
        ),
    ),
    Case(
        name="bad-input",
        steps=(
            "run training.batchsize=3 --out a",
            "run training.batch_size=four --out a",
            "run data.name=missing.csv --out a",
            "run attack=dagger --out a",
            """run 'attack={name="dager", knowledge={lables=true}}' --out a""",
            "run defense=dp --out a",
            """run 'defense={name="topk", fraction=3.0}' --out a""",
            "run model.task=masked-lm --out a",
            "run broken.toml --out a",
            "run --resume --out a",
            "sweep defense=none,dp --out a",
            "gate nowhere --policy loose.toml",
            "attack nowhere --attack dager",
            "report nowhere",
            "audit-dp --out a",
            "run --no-such-option",
        ),
        files={"broken.toml": "name = = 3", "loose.toml": LOOSE},
    ),
)
