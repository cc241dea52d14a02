"""The four of the six that train a model of images, which the patches make a BERT of texts."""

from field.recipes import CLIENT, NET, NO_MOMENTUM, PLAIN, STEPS, TRAIN, Project, Variant, notes
from field.sources import Patch

MOMENTUM = (*STEPS, "training.optimizer=momentum", "training.dropout=true")


def images(package: str, *more: str) -> Patch:
    """Return what has a project of images train on texts."""
    return Patch(
        file=f"{package}/task.py",
        why="a BERT and SST-2 for images",
        swaps=(("from torchvision.transforms", "from field_images"),),
        end="\n".join((NET, *more)),
    )


STEP_BY_STEP = Project(
    name="NumPyClient, server_fn",
    example="flower-simulation-step-by-step-pytorch/my-awesome-app",
    package="my_awesome_app",
    model="minilm",
    asks=("wandb",),
    patches=(
        images("my_awesome_app"),
        Patch(
            file="my_awesome_app/server_app.py",
            why="the central test's rows from the disk",
            end="from field_texts import load_dataset  # noqa",
        ),
        notes("my_awesome_app", *CLIENT),
    ),
    settings={"held_out": 0.2, "image": "image"},
    variants=(
        Variant(
            name="as it trains",
            words=(*STEPS, "training.optimizer=adamw", "training.dropout=true"),
        ),
        Variant(
            name="control",
            why="SGD for Adam, dropout off",
            patches=(
                Patch(
                    file="my_awesome_app/task.py",
                    why="SGD for Adam",
                    swaps=(("torch.optim.Adam(", "torch.optim.SGD("),),
                ),
            ),
            dropout=False,
            words=PLAIN,
        ),
    ),
)
OPACUS = Project(
    name="opacus",
    example="opacus",
    package="opacus_fl",
    model="minilm",
    asks=(),
    patches=(
        images("opacus_fl"),
        notes("opacus_fl", *TRAIN),
    ),
    settings={"held_out": 0.2, "image": "img", "frozen": True},
    variants=(
        Variant(
            name="as it trains",
            words=("training.learning_rate=0.001", *MOMENTUM),
        ),
        Variant(
            name="control",
            why="noise 0, a clip that is never reached, no momentum, dropout off",
            patches=(
                Patch(
                    file="opacus_fl/client_app.py",
                    why="no noise, no momentum",
                    swaps=(("1.0 if pid % 2 == 0 else 1.5", "0.0"), *NO_MOMENTUM),
                    end='PrivacyEngine.get_epsilon = lambda self, delta: float("inf")',
                ),
            ),
            config={"max-grad-norm": 1e6},
            dropout=False,
            words=("training.learning_rate=0.001", *PLAIN),
        ),
    ),
)
CUSTOM_MODS = Project(
    name="custom-mods",
    example="custom-mods",
    package="custom_mods",
    model="minilm",
    asks=("wandb",),
    patches=(
        images("custom_mods", "from field_texts import load_dataset  # noqa"),
        Patch(
            file="custom_mods/mods.py",
            why="a module that flwr 1.41 has elsewhere",
            swaps=(("flwr.client.typing", "flwr.clientapp.typing"),),
        ),
        notes("custom_mods", *TRAIN),
    ),
    settings={"held_out": 0.2, "image": "img"},
    variants=(
        Variant(
            name="as it trains",
            words=MOMENTUM,
        ),
        Variant(
            name="control",
            why="SGD without momentum, dropout off",
            patches=(Patch(file="custom_mods/task.py", why="no momentum", swaps=NO_MOMENTUM),),
            dropout=False,
            words=PLAIN,
        ),
    ),
)
SECAGG = Project(
    name="SecAgg+",
    example="flower-secure-aggregation",
    package="secaggexample",
    model="minilm-2",
    asks=(),
    patches=(
        images("secaggexample"),
        notes("secaggexample", "secaggplus_mod,", "secaggplus_mod, truth,"),
    ),
    settings={"held_out": 0.2, "image": "img"},
    config={"is-demo": False},
    supernodes=5,
    variants=(
        Variant(name="as it trains", words=("training.learning_rate=0.1", *MOMENTUM)),
        Variant(
            name="control",
            why="no masks, SGD without momentum, dropout off",
            patches=(
                Patch(
                    file="secaggexample/client_app.py",
                    why="no masks",
                    swaps=(("secaggplus_mod, truth,", "truth,"),),
                ),
                Patch(
                    file="secaggexample/server_app.py",
                    why="no masks",
                    swaps=(("fit_workflow=fit_workflow", ""),),
                ),
                Patch(file="secaggexample/task.py", why="no momentum", swaps=NO_MOMENTUM),
            ),
            dropout=False,
            words=(*PLAIN, "training.learning_rate=0.1"),
        ),
    ),
)
