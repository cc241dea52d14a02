"""The Flower server: it follows the protocol, and its grid is tapped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim.messages import UpdateKind
from fedsim.tap import GridProxy, Hook, TapGrid
from fedsim.types import Parameters, Scalar
from fedsim.wire import to_arrays, to_tensors, train_config
from server.central import central
from server.grids import PartitionedGrid
from server.rates import RoundRates, RoundScheduler
from server.replies import CheckedGrid
from server.secagg import SecureSum
from server.state import load_state, save_state
from server.strategies import Driven, FromUpdates, make_strategy, uniform

OnFailure = Literal["stop", "continue"]

TIMEOUT = 24 * 3600.0  # seconds a round may take: Flower wants a number; see federation.timeout
KINDS: dict[Scalar | None, UpdateKind] = {"fedsgd": "gradient", "fedavg": "delta"}
"""What all clients send, by the algorithm that they are told."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands: enough to go on from."""

    round: int  # the last one that is done; 0 before the first
    parameters: Parameters
    strategy: Mapping[str, Tensor] = field(default_factory=dict)  # see server.state
    stayed: bool = False  # True: no aggregate was made in it, and the weights are those of before


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What the server is started with."""

    clients: int
    clients_per_round: int
    rounds: int
    seed: int
    learning_rate: float  # of the step along averaged gradients
    round_lr_scheduler: RoundScheduler = "constant"  # of the learning rate over the rounds
    final_learning_rate: float = 0.0  # of the last round, where it is not constant
    strategy: str = "fedavg"
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    on_failure: OnFailure = "stop"
    secure_sum: bool = False  # the server sees the sum of a round's updates, and none of them
    config: Mapping[str, Scalar] = field(default_factory=dict)  # sent with every broadcast
    central: Mapping[str, float] | None = None  # noise_multiplier and clipping_norm of central DP

    def rate(self, round_: int) -> float:
        """Return the learning rate of a round."""
        return RoundRates(
            first=self.learning_rate,
            last=self.final_learning_rate,
            rounds=self.rounds,
            scheduler=self.round_lr_scheduler,
        ).at(round_)


def build_server_app(
    settings: ServerSettings,
    start: Progress,
    hooks: Sequence[Hook],
    after_round: Callable[[Progress], None],
) -> ServerApp:
    """Return the Flower app that runs ``settings.rounds`` rounds.

    Args:
        settings: the protocol.
        start: where to begin: initial weights, or a checkpoint.
        hooks: shown every round's exchanges, see :class:`fedsim.tap.TapGrid`; a fault in
            one ends the run, for whose sake it was started.
        after_round: called with the state after ``start`` itself and after each round.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        inner = make_strategy(settings.strategy, settings.strategy_options)
        load_state(inner, dict(start.strategy))
        known: GridProxy = PartitionedGrid(grid, settings.clients)
        kind = KINDS.get(settings.config.get("algorithm"))
        checked = CheckedGrid(known, kind, settings.learning_rate)
        visible = SecureSum(checked) if settings.secure_sum else checked
        tapped = TapGrid(visible, hooks, on_failure=settings.on_failure, guarded=False)
        noised = (
            inner
            if settings.central is None
            else central(inner, settings.central, settings.clients_per_round, settings.seed)
        )
        strategy = Driven(
            FromUpdates(noised, learning_rate=settings.learning_rate),
            uniform(settings.clients_per_round, settings.seed),
            first_round=start.round + 1,
            must_move=settings.on_failure == "stop",
            rate=None if settings.round_lr_scheduler == "constant" else settings.rate,
        )
        strategy.start(
            grid=tapped,
            initial_arrays=to_arrays(start.parameters),
            num_rounds=settings.rounds - start.round,
            timeout=TIMEOUT,
            train_config=train_config(settings.config),
            evaluate_fn=_reporter(start.round, inner, strategy, after_round),
        )

    return app


def _reporter(
    done: int, inner: Strategy, driven: Driven, after_round: Callable[[Progress], None]
) -> Callable[[int, ArrayRecord], None]:
    def report(round_: int, arrays: ArrayRecord) -> None:
        after_round(
            Progress(
                round=done + round_,
                parameters=to_tensors(arrays),
                strategy=save_state(inner),
                stayed=driven.stayed,
            )
        )

    return report
