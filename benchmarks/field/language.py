"""The two of the six projects that train on texts by themselves."""

from field.recipes import PLAIN, ROWS, STEPS, TRAIN, Project, Variant, notes
from field.rows import instructions, short_prompts
from field.sources import Patch

HUGGINGFACE = Project(
    name="quickstart-huggingface",
    example="quickstart-huggingface",
    package="huggingface_example",
    model="minilm",
    asks=("evaluate",),
    patches=(
        Patch(file="huggingface_example/task.py", why="SST-2 from the disk for IMDB", end=ROWS),
        notes("huggingface_example", *TRAIN),
    ),
    settings={"held_out": 0.2},
    config={"model-name": "{model}"},
    variants=(
        Variant(
            name="as it trains",
            words=(
                "data.num_examples=0",
                "training.learning_rate=5e-5",
                *STEPS,
                "training.optimizer=adamw",
                "training.dropout=true",
            ),
        ),
        Variant(
            name="control",
            why="SGD at a rate of 0.01, dropout off",
            patches=(
                Patch(
                    file="huggingface_example/task.py",
                    why="SGD for AdamW",
                    end="from torch.optim import SGD\n\n\ndef AdamW(parameters, lr):\n"
                    "    return SGD(parameters, lr=0.01)",
                ),
            ),
            dropout=False,
            words=("data.num_examples=0", "training.learning_rate=0.01", *PLAIN),
        ),
    ),
)
SHORT = """def formatting_prompts_func(example):
    rows = zip(example["instruction"], example["response"])
    return [f"{said}\\n### Response:{answer}" for said, answer in rows]"""
NOTED = """from field_texts import noted

formatting_prompts_func = noted(formatting_prompts_func)"""
LORA = ("model.lora_alpha=64", "training.max_grad_norm=1.0", "training.mini_batch_size=16")


def _short(rank: int, rows: int) -> Variant:
    return Variant(
        name=f"control, r = {rank}",
        why=f"SGD at a rate of 0.5, one step, no dropout, {rows} short prompt(s), alpha = 2 r",
        patches=(
            Patch(
                file="flowertune_llm/models.py",
                why="no dropout",
                swaps=(("lora_dropout=0.075", "lora_dropout=0.0"),),
            ),
            Patch(
                file="flowertune_llm/dataset.py", why="short prompts", end=f"{SHORT}\n\n\n{NOTED}"
            ),
            Patch(
                file="pyproject.toml",
                why="SGD, by transformers' own word",
                end='train.training-arguments.optim = "sgd"',
            ),
        ),
        config={
            "model.lora.peft-lora-r": rank,
            "model.lora.peft-lora-alpha": 2 * rank,
            "train.learning-rate-max": 0.5,
            "train.learning-rate-min": 0.5,
            "train.training-arguments.max-steps": 1,
        },
        rows=rows,
        draw=short_prompts,
        words=(
            f"model.lora_alpha={2 * rank}",
            *LORA[1:],
            "training.learning_rate=0.5",
            "training.optimizer=sgd",
            "training.max_steps=1",
            "training.dropout=false",
        ),
    )


FLOWERTUNE = Project(
    name="flowertune-llm",
    example="flowertune-llm",
    package="flowertune_llm",
    model="stories",
    asks=("trl", "omegaconf"),
    patches=(
        Patch(
            file="flowertune_llm/dataset.py",
            why="Alpaca from the disk; texts are noted as they are formatted",
            end=f"{ROWS}\n\n{NOTED}",
        ),
        Patch(
            file="flowertune_llm/models.py",
            why="weights as they are for 4 bits (bitsandbytes needs a GPU)",
            end="def BitsAndBytesConfig(**settings):\n    return None",
        ),
        notes("flowertune_llm", *TRAIN),
    ),
    settings={"held_out": 0},
    config={"model.name": "{model}", "num-server-rounds": 2},
    variants=(
        Variant(
            name="as it trains",
            rows=40,
            draw=instructions,
            words=(
                *LORA,
                "training.learning_rate=5e-5",
                "training.optimizer=adamw",
                "training.max_steps=10",
                "rounds=[1]",  # the positive control takes minutes
                "training.dropout=true",
            ),
        ),
        _short(32, 1),
        _short(64, 2),
    ),
)
