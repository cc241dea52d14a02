"""What dager would look at, by the names that transformers and peft give, and what it lacks.

The oracle is the model's own family file: its queries, keys and values, and what its search needs.
"""

import pytest

from fedsim.lab.inspect.parts import find_parts
from fedsim.models.shapes import Shapes

BERT, GPT2, LLAMA = "bert.encoder.layer.", "transformer.h.", "model.layers."
ATTENTION, MIDDLE = "attention.self.query", "intermediate.dense"
QKV = ("self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj")
BLOCK = (*QKV, "self_attn.o_proj", "mlp.down_proj", "mlp.gate_proj")


def full(stem: str, *modules: str) -> dict[str, tuple[int, ...]]:
    """Whole weights of three blocks, in the order of a file, which is that of the alphabet."""
    names = sorted(f"{stem}{block}.{module}.weight" for block in range(3) for module in modules)
    return {name: (8, 8) for name in names}


def adapted(stem: str, *modules: str) -> dict[str, tuple[int, ...]]:
    return {
        name.replace(".weight", f".lora_{side}.weight"): (4, 8) if side == "A" else (8, 4)
        for name in full(f"base_model.model.{stem}", *modules)
        for side in "AB"
    }


@pytest.mark.parametrize(
    ("sent", "readers", "lacks"),
    [
        (full(GPT2, "attn.c_attn", "mlp.c_fc"), ["attn.c_attn"], ""),
        (full(LLAMA, *BLOCK), QKV, ""),
        (full(BERT, ATTENTION, MIDDLE), [ATTENTION], ""),
        (full(BERT, ATTENTION, "attention.output.dense"), [ATTENTION], ""),
        (adapted(GPT2, "attn.c_attn"), ["attn.c_attn"], ""),  # and block 1's
        (adapted(LLAMA, *BLOCK), QKV, ""),  # of which mlp.down_proj comes first
        (adapted(LLAMA, "self_attn.q_proj"), QKV[1:2], ""),
        (adapted(BERT, ATTENTION, "attention.self.value"),
         [ATTENTION, "attention.self.value"], "adapters on block 0's attention output or MLP"),
        (adapted(BERT, ATTENTION, MIDDLE), [ATTENTION], ""),
        (adapted("distilbert.transformer.layer.", "attention.q_lin", "attention.v_lin"),
         ["attention.q_lin", "attention.v_lin"], "adapters on block 0's attention output or MLP"),
        (adapted("deberta.encoder.layer.", "attention.self.query_proj"),
         ["attention.self.query_proj"], ""),  # whose order block 1 tells
        (adapted(LLAMA, "mlp.gate_proj"), [], "adapters on block 0's queries, keys or values"),
        (full("my.", "first", "second"), [], ""),  # names of a project's own: nothing is known
    ],
)  # fmt: skip
def test_the_readers_of_block_0_and_what_is_not_there(
    sent: dict[str, tuple[int, ...]], readers: list[str], lacks: str
) -> None:
    parts = find_parts(Shapes.of(sent), set(sent))
    assert [name.split(".0.")[1].split(".lora_B")[0].removesuffix(".weight")
            for name in parts.readers] == list(readers)  # fmt: skip
    assert all(".lora_A" not in name for name in parts.readers)
    assert (lacks in parts.lacks) if lacks else not parts.lacks


def test_what_did_not_move_is_as_good_as_not_there() -> None:
    shapes = Shapes.of(full(LLAMA, *BLOCK))
    later = {name for name in shapes.sent if ".0." not in name}
    assert "update of block 0's queries, keys or values" in find_parts(shapes, later).lacks
    first = {name for name in shapes.sent if ".0.self_attn" in name}
    assert "block 0's MLP, or block 1's queries" in find_parts(shapes, first).lacks
    assert not find_parts(shapes, set()).lacks  # nothing moved at all, which says nothing


def test_of_two_models_it_is_the_one_that_trains() -> None:
    frozen, learner = full("frozen.model.layers.", *BLOCK), full("learner.model.layers.", *BLOCK)
    parts = find_parts(Shapes.of(frozen | learner), set(learner))
    assert parts.readers == tuple(f"learner.model.layers.0.{name}.weight" for name in QKV)
    assert not parts.lacks


def test_a_tenth_block_is_none_of_the_first_two() -> None:
    sent = {f"{LLAMA}{block}.{name}.weight": (8, 8) for block in (0, 10) for name in QKV}
    assert "block 0's MLP, or block 1's queries" in find_parts(Shapes.of(sent), set(sent)).lacks
