"""The cases of ``lab/cases``: the command lines of ``../shared/cases/README.md``, what is right."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Said:
    """How a command line ended (124: it had to be ended), and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Left:
    """What a case left: its folder, and what each step said."""

    here: Path
    said: Sequence[Said]

    def summary(self, run: str) -> dict[str, Any]:
        """Return the summary.json of a run."""
        text = (self.here / run / "summary.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def mean(self, run: str, metric: str) -> float:
        """Return the mean of a metric of DAGER's."""
        return float(self.summary(run)["leakage"]["dager"][metric]["mean"])

    def texts(self, run: str) -> set[str]:
        """Return what the attacks of a run guessed."""
        lines = (self.here / run / "reconstructions.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return {text for row in rows if row["role"] == "attack" for text in row["texts"]}


Wrong = Callable[[Left], str]  # why it is wrong; "": it is right


@dataclass(frozen=True, kw_only=True)
class Case:
    """A few command lines, and what is right of them."""

    name: str
    steps: tuple[str, ...]
    expected: str
    wrong: Wrong
    limit: float = 600.0  # seconds that a step may take
    later: str = ""  # what it waits for


def refused(*words: str) -> Wrong:
    """Return what a refusal has to be: exit 2, one line, that has ``words`` in it."""

    def wrong(left: Left) -> str:
        last = left.said[-1]
        lines = [line for line in last.err.splitlines() if line.startswith("fedsim: ")]
        if last.code != 2 or "Traceback" in last.err or len(lines) != 1:
            return f"exit {last.code}, {len(lines)} lines"
        missing = [word for word in words if word not in lines[0]]
        return f"{lines[0]!r} does not say {missing}" if missing else ""

    return wrong


def fine(*asked: Wrong) -> Wrong:
    """Return what success has to be: exit 0 of every step, and nothing that ``asked`` finds."""

    def wrong(left: Left) -> str:
        codes = [said.code for said in left.said]
        if any(codes):
            return f"exit {codes}"
        return next(filter(None, (ask(left) for ask in asked)), "")

    return wrong


def read(run: str, metric: str = "exact_match", least: float = 1.0) -> Wrong:
    """Ask that DAGER read a run's texts."""
    return lambda left: (
        "" if left.mean(run, metric) >= least else f"{metric} {left.mean(run, metric)}"
    )


def noted(run: str, word: str) -> Wrong:
    """Ask that a run's notes have ``word`` in them."""
    return lambda left: "" if word in str(left.summary(run)["notes"]) else f"no note says {word}"


def russian(left: Left) -> str:
    """The texts are read, their ROUGE says so, and the gate closes."""
    codes = [said.code for said in left.said]
    ends = "" if codes == [0, 1] else f"exit {codes}, not [0, 1]"
    return read("ru", "rouge1", 100.0)(left) or ends


def counted(left: Left) -> str:
    """No update comes back as counted and sure with a sentence wrong."""
    sure = [
        entry["metrics"]["exact_match"]
        for entry in left.summary("duplicates")["attacks"]
        if entry["diagnostics"].get("counted") and not entry["diagnostics"].get("best_effort")
    ]
    wrong = [share for share in sure if share < 1.0]
    return f"{len(wrong)} of {len(sure)} sure ones are wrong: {wrong}" if wrong else ""


def split(left: Left) -> str:
    """Texts are a column of their own, in both tasks."""
    return " ".join(text for text in left.texts("semicolon") | left.texts("lm") if ";" in text)


def named(attack: str) -> Wrong:
    """Ask that both clients' texts were read off foreign names."""
    wanted = {"Orla Finch owes the baker nine coins.", "Mina leaves for Oslo at dawn."}

    def wrong(left: Left) -> str:
        missing = wanted - left.texts(attack)
        return f"exit {left.said[-1].code}, not read: {missing}" if missing else ""

    return wrong


def looked(left: Left) -> str:
    """A hook that only looks raises on no layout."""
    out = left.said[-1].out
    return "" if out.count("ok ") == 7 and "RAISES" not in out else out


def ended(left: Left) -> str:
    """A hostile capture ends the command, in one line or with results."""
    last = left.said[-1]
    bad = last.code in (1, 124) or "Traceback" in last.err
    return f"exit {last.code}" if bad else ""


def secret(left: Left) -> str:
    """The seed of the run is not what the search ends with."""
    return left.said[-1].out if "run seed 1 " in left.said[-1].out else ""


def run(words: str, out: str) -> str:
    """Return the command line of a run of small.toml."""
    return f"fedsim run small.toml {words} --out {out}"


ISSUE_16 = "names and layouts of other projects"
RUSSIAN = "data.name=russian.jsonl data.max_length=64 federation.clients=16 data.evaluate=8"
GAP = (
    'import json, shutil; shutil.copytree("OUT/gap-in-ids", "OUT/hole"); '
    'path = "OUT/hole/tokenizer.json"; tree = json.load(open(path)); '
    'vocab = tree["model"]["vocab"]; '
    "vocab.update({word: place + 1000 for word, place in vocab.items() if place >= 20}); "
    'json.dump(tree, open(path, "w"))'
)
CASES = (
    Case(
        name="other-scripts",
        steps=(
            run(RUSSIAN, "ru"),
            "fedsim gate ru --policy gate-rouge.toml",
        ),
        expected="32 Russian sentences score ROUGE 100 and the gate closes",
        wrong=russian,
    ),
    Case(
        name="labels-of-a-classifier",
        steps=(run("model.name=OUT/three-labels", "three"),),
        expected="a new head, and a note of it",
        wrong=fine(read("three"), noted("three", "head is new")),
    ),
    Case(
        name="keys-with-a-prefix",
        steps=(run("model.name=OUT/prefixed-keys attack=[]", "prefix"),),
        expected="exit 2, the prefix named",
        wrong=refused("model.name", "'module.'"),
    ),
    Case(
        name="one-nan",
        steps=(run("model.name=OUT/one-nan attack=[]", "nan"),),
        expected="exit 2, the tensor named",
        wrong=refused("model.name", "transformer.h.1.mlp.c_fc.weight", "NaN"),
    ),
    Case(
        name="quantized",
        steps=(run("model.name=OUT/quantized attack=[]", "quantized"),),
        expected="exit 2, in one line",
        wrong=refused("model.name", "quantized"),
    ),
    Case(
        name="gap-in-ids",
        steps=(run("model.name=OUT/gap-in-ids", "gap"),),
        expected="run: make_models knows 44 words, and moves those from the 60th on",
        wrong=fine(),
    ),
    Case(
        name="gap-in-ids-from-20",
        steps=(f"python -c '{GAP}'", run("model.name=OUT/hole", "hole")),
        expected="exit 2, both numbers named",
        wrong=refused("model.tokenizer", "largest id is 1043", "embeds only 108"),
    ),
    Case(
        name="no-mask-token",
        steps=(run("model.name=OUT/no-mask-token model.task=masked-lm", "mask"),),
        expected="exit 2",
        wrong=refused("model.tokenizer", "mask token"),
    ),
    Case(
        name="unknown-words",
        steps=(
            run("model.name=OUT/words data.name=cjk.jsonl model.task=masked-lm "
                "training.batch_size=4 attack=[]", "cjk"),
        ),
        expected="texts of unknown words are left out, or one line says that all are",
        wrong=lambda left: fine()(left) and refused("data.")(left),
    ),
    Case(
        name="rope",
        steps=(run("model.name=OUT/dynamic-rope", "rope"),),
        expected="read like any LLaMA",
        wrong=fine(read("rope")),
    ),
    Case(
        name="sites",
        steps=(
            run("data.name=zip.csv data.partition=natural data.partition_by=site "
                "federation.clients=3 data.evaluate=2", "sites"),
        ),
        expected="01, 1 and 001 are three sites",
        wrong=fine(),
    ),
    Case(
        name="semicolons",
        steps=(
            run("data.name=semicolon.csv", "semicolon"),
            run("data.name=semicolon.csv model.task=causal-lm", "lm"),
        ),
        expected="columns are split, for either task",
        wrong=fine(split),
    ),
    Case(
        name="float-labels",
        steps=(run("data.name=floatlabel.csv", "floats"),),
        expected="0.0 and 1.0 are labels",
        wrong=fine(read("floats")),
    ),
    Case(
        name="counts-of-equal-texts",
        steps=("fedsim run duplicates.toml --out duplicates",),
        expected="none sure and wrong",
        wrong=fine(counted),
    ),
    Case(
        name="bom",
        steps=("fedsim run bom.toml --out bom",),
        expected="read",
        wrong=fine(read("bom")),
    ),
    Case(
        name="bigint",
        steps=("fedsim run bigint.toml --out bigint",),
        expected="exit 2, in one line",
        wrong=refused("bigint.toml"),
    ),
    Case(
        name="deep",
        steps=("fedsim run deep.toml --out deep",),
        expected="exit 2, in one line",
        wrong=refused("deep.toml"),
    ),
    *(
        Case(
            name=f"names-{mode}",
            steps=(
                f"python flower_names.py {mode} OUT/two-labels WORK-{mode}",
                f"fedsim attack WORK-{mode}/captures --attack dager model.name=OUT/two-labels "
                f"model.task=classification {more} --out READ-{mode}",
            ),
            expected="another project's names are understood, its texts read",
            wrong=named(f"READ-{mode}"),
            later=ISSUE_16,
        )
        for mode, more in (("peft", "model.lora_rank=64"), ("positional", ""))
    ),
    Case(
        name="message-layouts",
        steps=("python tap_layouts.py LAYOUTS",),
        expected="no layout makes a hook raise",
        wrong=looked,
        later=ISSUE_16,
    ),
    Case(
        name="a-capture-that-never-ends",
        steps=(
            run("training.algorithm=fedavg", "endless"),
            "copy epochs1e9.observation.json endless/captures/round=1/client=0/observation.json",
            "fedsim attack endless --attack dager clients=[0]",
        ),
        expected="ends within two minutes, without a traceback",
        wrong=ended,
        limit=120.0,
    ),
    Case(
        name="the-seed-behind-the-noise",
        steps=(
            run('\'defense={name="gaussian", noise_multiplier=1.0}\' attack=[]', "noised"),
            "python guess_seed.py noised",
        ),
        expected="the run's seed is not found from its captures in a minute",
        wrong=secret,
        limit=60.0,
    ),
)  # fmt: skip
