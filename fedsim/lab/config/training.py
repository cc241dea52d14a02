"""The config's ``[training]``."""

from pydantic import Field, model_validator

from fedsim import limits
from fedsim.lab.config.fields import Section, default_of
from fedsim.training import (
    Algorithm,
    ComputeDtype,
    Optimizer,
    Scheduler,
    TrainingSettings,
    WireDtype,
)
from server import ServerSettings
from server.rates import RoundScheduler


class TrainingSection(Section):
    """How a client trains, and what it sends."""

    algorithm: Algorithm = default_of(
        TrainingSettings, "algorithm", "`fedsgd` uploads a gradient, `fedavg` a weight delta"
    )
    batch_size: int = Field(
        4,
        ge=0,
        le=limits.EXAMPLES,
        description="examples a client trains on in a round; 0: all that it holds",
    )
    local_epochs: int = default_of(
        TrainingSettings, "local_epochs", "of FedAvg", ge=1, le=limits.EPOCHS
    )
    max_steps: int = default_of(
        TrainingSettings,
        "max_steps",
        "local steps of FedAvg in place of local_epochs, over the batch again and again; 0: none",
        ge=0,
        le=limits.EPOCHS,
    )
    mini_batch_size: int = default_of(
        TrainingSettings,
        "mini_batch_size",
        "examples of a local step of FedAvg: a batch times its gradient accumulation",
        ge=1,
        le=limits.EXAMPLES,
    )
    learning_rate: float = default_of(
        TrainingSettings,
        "learning_rate",
        "of FedAvg's local steps; with FedSGD of the server's step",
        gt=0,
    )
    optimizer: Optimizer = default_of(
        TrainingSettings, "optimizer", "of FedAvg's local steps; `momentum` is 0.9"
    )
    weight_decay: float = default_of(
        TrainingSettings,
        "weight_decay",
        "of `sgd` and `momentum`; AdamW's is torch's 0.01 where this is 0",
        ge=0,
    )
    max_grad_norm: float = default_of(
        TrainingSettings,
        "max_grad_norm",
        "of FedAvg's local steps: a step's gradient is scaled down to this norm; 0: none is",
        ge=0,
    )
    lr_scheduler: Scheduler = default_of(
        TrainingSettings,
        "lr_scheduler",
        "of FedAvg's learning rate within a client's round, as transformers has it",
    )
    warmup_steps: int = default_of(
        TrainingSettings,
        "warmup_steps",
        "FedAvg's local steps over which the learning rate rises from 0, first",
        ge=0,
        le=limits.EPOCHS,
    )
    round_lr_scheduler: RoundScheduler = default_of(
        ServerSettings,
        "round_lr_scheduler",
        "of learning_rate over the rounds, down to final_learning_rate in the last, as FlowerTune "
        "has it",
    )
    final_learning_rate: float = default_of(
        ServerSettings,
        "final_learning_rate",
        "of the last round, above 0, where round_lr_scheduler is not constant",
        ge=0,
    )
    dropout: bool = default_of(
        TrainingSettings, "dropout", "train with the model's own dropout rates"
    )
    wire_dtype: WireDtype = default_of(TrainingSettings, "wire_dtype", "of the update on its way")
    compute_dtype: ComputeDtype = default_of(
        TrainingSettings,
        "compute_dtype",
        "`bfloat16`: clients compute under torch's autocast, as transformers' bf16; weights and "
        "updates stay float32",
    )

    @model_validator(mode="after")
    def _falls(self) -> "TrainingSection":
        """Check that the learning rate has where to fall to."""
        if self.round_lr_scheduler == "constant" and self.final_learning_rate:
            raise ValueError(
                "training.final_learning_rate: is for a round_lr_scheduler of linear or cosine, "
                f"got {self.final_learning_rate:g} with constant"
            )
        falls = 0 < self.final_learning_rate <= self.learning_rate
        if self.round_lr_scheduler != "constant" and not falls:
            raise ValueError(
                "training.final_learning_rate: wanted more than 0 and at most learning_rate = "
                f"{self.learning_rate:g}, got {self.final_learning_rate:g}"
            )
        return self
