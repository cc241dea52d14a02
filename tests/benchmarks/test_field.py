"""Real Flower projects as a benchmark: what is changed in them, and what is compared, by hand."""

import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim.flower import set_identity
from fedsim.wire import to_arrays
from server import Capture, Exchange
from tests.server.conftest import weights
from tests.server.tapped import message

ROOT = Path(__file__).parents[2] / "benchmarks"
ABSENT = ROOT / "field" / "inside" / "absent"
Part = Callable[[str], ModuleType]


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Iterator[Part]:
    """Imports a module of the benchmarks, as ``benchmarks/run.py`` finds it."""
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.syspath_prepend(ABSENT)
    monkeypatch.syspath_prepend(ABSENT.parent)
    before = set(sys.modules)
    names = {path.stem for path in ABSENT.iterdir()} | {"field", "common", "rows", "field_images"}
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in names:
            del sys.modules[name]


@pytest.fixture
def flower(tmp_path: Path) -> Path:
    """A repository with an example, and an edit that was not committed."""
    root = tmp_path / "flower"
    app = root / "examples" / "one" / "app" / "task.py"
    app.parent.mkdir(parents=True)
    app.write_text('"""A task."""\nRATE = 0.9\n')
    (app.parent / "picture.png").write_bytes(b"\x89PNG")
    for words in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm one"):
        subprocess.run(["git", "-C", str(root), *words.split()], check=True)
    app.write_text("RATE = 0.1\n")
    return root


def test_a_project_is_copied_as_its_commit_has_it(part: Part, flower: Path, tmp_path: Path) -> None:
    checkout = part("field.sources").Checkout(flower)
    checkout.copy("one", tmp_path / "one")
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*")]
    assert files == [Path("app/task.py")]  # sources alone
    assert "RATE = 0.9" in (tmp_path / "one" / "app" / "task.py").read_text()
    assert len(checkout.commit()) == 40
    with pytest.raises(SystemExit, match="has no examples/two/ at HEAD"):
        checkout.copy("two", tmp_path / "two")


def test_what_is_no_checkout_is_said_in_one_line(part: Part, tmp_path: Path) -> None:
    kind = part("field.sources").Checkout
    with pytest.raises(SystemExit, match="there is no directory"):
        kind(tmp_path / "nowhere").commit()
    with pytest.raises(SystemExit, match="wanted a git checkout of Flower") as said:
        kind(tmp_path).commit()
    assert len(str(said.value).splitlines()) == 1


def test_a_patch_changes_what_it_says_or_is_refused(part: Part, tmp_path: Path) -> None:
    patch = part("field.sources").Patch
    (tmp_path / "task.py").write_text("x = 1\nRATE = 0.9\n\n")
    whole = patch(file="task.py", why="", top="import a", swaps=(("0.9", "0.0"),), end="x = 2")
    whole.apply(tmp_path)
    assert (tmp_path / "task.py").read_text() == "import a\nx = 1\nRATE = 0.0\nx = 2\n"
    with pytest.raises(SystemExit, match=r"does not say '0\.9'; it is another version"):
        whole.apply(tmp_path)
    with pytest.raises(SystemExit, match=r"has no other\.py"):
        patch(file="other.py", why="").apply(tmp_path)


@pytest.mark.slow
def test_no_patch_touches_how_a_project_trains(part: Part) -> None:
    """Which lines say how clients train is known of their sources: none is swapped, but notes'."""
    for project in part("field.projects").PROJECTS.values():
        real, *controls = project.variants
        assert real.name == "as it trains" and real.dropout and controls
        assert not real.patches and not real.config
        swapped = [new for patch in project.patches for _, new in patch.swaps]
        moved = {"from field_images", "flwr.clientapp.typing"}  # where an import is from
        assert [new for new in swapped if new not in moved] == swapped[-1:]
        assert "truth" in swapped[-1]
        ends = "\n".join(patch.end for patch in project.patches)
        assert not any(word in ends for word in ("optim", "lr", "backward", "dropout", "train("))
        assert all(patch.why for each in project.variants for patch in each.patches)
        for name in project.asks:  # else what is not installed has no stand-in
            assert importlib.util.find_spec(name), name


def observed(tap: Capture, nodes: dict[int, int], round_: int) -> None:
    """Capture replies of nodes (with the examples they state), as the tap does."""
    sent = RecordDict({"arrays": to_arrays(weights(0)), "config": ConfigRecord({})})
    tap(
        [
            Exchange(
                round=round_, node_id=node, client=None, sent=sent,
                received=RecordDict(
                    {"a": to_arrays(weights(1)), "m": MetricRecord({"num-examples": count})}
                ),
            )
            for node, count in nodes.items()
        ]
    )  # fmt: skip


@pytest.fixture
def ran(part: Part, tmp_path: Path) -> Callable[..., Any]:
    """A run whose witness saw the ``lines``."""

    def make(name: str, lines: list[dict[str, Any]], last: list[float]) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "witness.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        np.save(folder / "final.npy", np.array(last))
        return part("field.running").Ran(
            folder=folder, ended=True, error="", seconds=1.0,
            captures=tmp_path / "captures", truth=folder, model=folder,
        )  # fmt: skip

    return make


@pytest.mark.slow
def test_captures_are_right_where_the_witness_saw_the_same(
    part: Part, ran: Callable[..., Any], tmp_path: Path
) -> None:
    lines = [
        {"round": 1, "stated": [["70", 4], ["15", 3]], "digest": "a"},
        {"round": 2, "stated": [["15", 3]], "digest": "b"},
    ]
    right = part("field.looking").captured_right
    tap = Capture(tmp_path / "captures")
    observed(tap, {70: 4, 15: 3}, 1)
    assert not right(ran("short", lines, [1.0]))["right"]  # a round is missing
    observed(tap, {15: 3}, 2)
    found = right(ran("all", lines, [1.0]))
    assert found["right"] and found["rounds"] == [1, 2] and found["clients"] == 2
    assert found["stated"] == [3, 4] and found["captures"] == 3
    lines[1]["stated"] = [["15", 4]]
    assert not right(ran("other", lines, [1.0]))["right"]  # another count


@pytest.mark.slow
def test_parameters_are_the_same_where_every_bit_is(part: Part, ran: Callable[..., Any]) -> None:
    same = part("field.running").same_parameters
    one = ran("one", [{"round": 1, "stated": [], "digest": "a"}], [2.0, -4.0])
    assert same(one, ran("two", [{"round": 1, "stated": [], "digest": "a"}], [2.0, -4.0]))["same"]
    found = same(one, ran("three", [{"round": 1, "stated": [], "digest": "b"}], [2.0, -3.0]))
    assert not found["same"] and found["largest_difference"] == 0.25  # 1 of 4


@pytest.mark.slow
def test_the_stand_in_for_trl_leaves_prompts_out_of_the_loss(part: Part) -> None:
    """By hand: the template is 5 6 and its last place counts; padding has no label."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({"[PAD]": 0, "a": 1}, unk_token="[PAD]")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="[PAD]")
    collator = part("trl").DataCollatorForCompletionOnlyLM([5, 6], tokenizer=tokenizer)
    rows = [[5, 6, 5, 6, 3, 4], [1, 5, 6, 2], [1, 5, 2]]
    batch = collator([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in rows])
    no = -100
    assert batch["input_ids"].tolist()[1] == [1, 5, 6, 2, 0, 0]
    assert batch["labels"].tolist() == [
        [no, no, no, no, 3, 4],
        [no, no, no, 2, no, no],
        [no] * 6,  # no response
    ]


def test_the_other_stand_ins_do_what_is_asked_of_them(part: Part) -> None:
    config = part("omegaconf").DictConfig({"train": {"lr": 0.1, "args": {"a": 1, "b": 2}}, "n": 3})
    assert config.train.lr == 0.1 and config.n == 3
    assert dict(**config.train.args) == {"a": 1, "b": 2}
    assert not hasattr(config, "other")
    accuracy = part("evaluate").load("accuracy")
    accuracy.add_batch(predictions=torch.tensor([1, 0, 1]), references=torch.tensor([1, 1, 1]))
    accuracy.add_batch(predictions=[0], references=[0])
    assert accuracy.compute() == {"accuracy": 0.75}
    with pytest.raises(ValueError, match="wanted accuracy, got 'f1'"):
        part("evaluate").load("f1")
    transforms = part("field_images")
    chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    assert chain([3, 4]).tolist() == [3, 4]


def test_a_row_says_what_was_found(part: Part) -> None:
    rows = part("rows.field")
    assert rows._same({"same": True, "rounds": 3}) == "the same bits, 3 rounds"
    differ = {"same": False, "largest_difference": 2e-8, "without_tap_twice": {"same": False}}
    assert rows._same(differ) == "differ by 2e-08 at most, nor are two runs without it"
    hidden = {
        "hidden": {"the entries are as Adam's steps are: it is no sum": 8},
        "masked": 0, "filled": 2, "width": 32,
    }  # fmt: skip
    assert rows._hidden(hidden) == "the entries are as Adam's steps are; all 32 dimensions filled"
    assert rows._hidden({"hidden": {}, "masked": 15, "filled": 0}) == "masked by secure aggregation"
    assert rows._read({"exact": 0, "exact_but_last": 6, "samples": 6}) == (
        "0 of 6; 6 but for the last token"
    )
    assert rows._read({"exit_code": 2}) == "refused"


@pytest.mark.slow
def test_the_witness_writes_what_was_stated_and_made(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: (1 x (1, 2) + 3 x (3, 6)) / 4 = (2.5, 5), through Flower's FedAvg, old and new."""
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
    from flwr.server.strategy import FedAvg as Legacy
    from flwr.serverapp.strategy import FedAvg

    for kind, name in ((Legacy, "aggregate_fit"), (FedAvg, "aggregate_train")):
        monkeypatch.setattr(kind, name, getattr(kind, name))  # to have it back
    set_identity()
    part("field.simulate").Witness(tmp_path).stand()
    sent = {7: (1, [1.0, 2.0]), 8: (3, [3.0, 6.0])}
    results, replies = [], []
    for node, (count, values) in sent.items():
        array = np.array(values, np.float32)
        told = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([array]), count, {})
        results.append((type("Proxy", (), {"cid": str(node)})(), told))
        asked = message(node)
        asked.metadata.__dict__["_message_id"] = str(node)
        record = ArrayRecord({"w": Array(array)})
        metrics = MetricRecord({"num-examples": count})
        replies.append(Message(RecordDict({"arrays": record, "m": metrics}), reply_to=asked))
    Legacy().aggregate_fit(1, results, [])
    FedAvg().aggregate_train(2, replies)
    lines = [json.loads(line) for line in (tmp_path / "witness.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2]
    assert all(line["stated"] == [["7", 1], ["8", 3]] for line in lines)
    assert np.load(tmp_path / "final.npy").tolist() == [2.5, 5.0]
    wanted = hashlib.sha256(np.array([2.5, 5.0], np.float32).tobytes()).hexdigest()
    assert lines[1]["digest"] == wanted
