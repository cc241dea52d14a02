"""Flower's strategies by name, ours around them: gradients and deltas in, seeded participation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, strategy
from flwr.serverapp.strategy import Strategy
from typing_extensions import override

from fedsim.errors import BadInput, RunFailed, unknown
from fedsim.rng import derive
from fedsim.tap.keys import ARRAYS
from fedsim.wire import update_kind
from server.grids import Only

STRATEGIES: dict[str, type[strategy.FedAvg]] = {
    kind.__name__.lower(): kind
    for kind in (
        strategy.Bulyan,
        strategy.FedAdagrad,
        strategy.FedAdam,
        strategy.FedAvg,
        strategy.FedAvgM,
        strategy.FedMedian,
        strategy.FedProx,
        strategy.FedTrimmedAvg,
        strategy.FedYogi,
        strategy.Krum,
        strategy.MultiKrum,
        strategy.QFedAvg,
    )
}


def make_strategy(
    name: str, options: Mapping[str, Any], clients: int | None = None
) -> strategy.FedAvg:
    """Return Flower's strategy called ``name``, made to take every client it is shown.

    Args:
        clients: that take part in a round, where it is to be checked that they are enough.

    Raises:
        BadInput: an unknown name, options that it does not take, or too few clients for it.
    """
    if name not in STRATEGIES:
        raise BadInput(f"federation.strategy: {unknown('strategy', name, STRATEGIES)}")
    everyone = {"fraction_train": 1.0, "fraction_evaluate": 0.0, "min_train_nodes": 1}
    everyone |= {"min_evaluate_nodes": 0, "min_available_nodes": 1}
    for key, value in options.items():
        if key in everyone:  # Flower would draw again, from the global random
            raise BadInput(
                f"federation.strategy_options: {name}: {key} is set by fedsim; who takes part is "
                "federation.clients_per_round"
            )
        if not isinstance(value, (int, float)):
            raise BadInput(
                f"federation.strategy_options: {name}: {key} must be a number, got {value!r}"
            )
    try:
        made = STRATEGIES[name](**{**everyone, **options})
    except (TypeError, ValueError) as error:
        raise BadInput(f"federation.strategy_options: {name}: {error}") from error
    if clients is not None and isinstance(made, strategy.Bulyan):
        needed = 4 * made.num_malicious_nodes + 3  # below it Flower's leaves the weights alone
        if clients < needed:
            raise BadInput(
                f"federation.clients_per_round: bulyan with num_malicious_nodes = "
                f"{made.num_malicious_nodes} needs at least {needed}, got {clients}"
            )
    return made


class Wrapper(Strategy):
    """A strategy that hands everything to the one inside it; the base of those that do more."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.inner.configure_train(server_round, arrays, config, grid)

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return self.inner.aggregate_train(server_round, replies)

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    @override
    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        return self.inner.aggregate_evaluate(server_round, replies)

    @override
    def summary(self) -> None:
        self.inner.summary()


class FromUpdates(Wrapper):
    """Turns each client's update into the weights that Flower's strategies average.

    A delta is added to the weights that were sent; a gradient takes one SGD step from them, so
    around FedAvg this is FedSGD: w - lr * mean(g) = mean(w - lr * g) (McMahan et al., AISTATS 2017,
    arXiv:1602.05629, sec. 2). Steps are taken in float64; what is sent next keeps its dtype.
    """

    def __init__(self, inner: Strategy, *, learning_rate: float) -> None:
        super().__init__(inner)
        self.learning_rate = learning_rate
        self._sent = ArrayRecord()

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._sent = arrays
        return self.inner.configure_train(server_round, arrays, config, grid)

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = self.inner.aggregate_train(server_round, map(self._applied, replies))
        if arrays is None:
            return None, metrics
        kept = {k: Array(a.numpy().astype(self._sent[k].dtype)) for k, a in arrays.items()}
        return ArrayRecord(kept), metrics

    def _applied(self, reply: Message) -> Message:
        kind = None if reply.has_error() else update_kind(reply.content)
        if kind is None:  # a failure, or a client that sends weights
            return reply
        step = 1.0 if kind == "delta" else -self.learning_rate
        (name, update), *_ = reply.content.array_records.items()
        weights: dict[str, Array] = {}
        for k, sent in self._sent.items():
            with np.errstate(over="ignore"):  # told below, by name
                moved = sent.numpy().astype(np.float64)
                moved += step * update[k].numpy().astype(np.float64)
                weights[k] = Array(moved.astype(sent.dtype))
            if not np.isfinite(weights[k].numpy()).all():
                raise RunFailed(f"training diverged: {k} is not finite; lower the learning rate")
        records = {k: v for k, v in reply.content.items() if k != name}
        reply.content = RecordDict({**records, ARRAYS: ArrayRecord(weights)})
        return reply


class Seeded(Wrapper):
    """Draws what the strategy inside takes from numpy's global generator by the run's seed."""

    def __init__(self, inner: Strategy, seed: int) -> None:
        super().__init__(inner)
        self.seed = seed

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        before = np.random.get_state()
        np.random.seed(derive(self.seed, "central", server_round) % 2**32)
        try:
            return self.inner.aggregate_train(server_round, replies)
        finally:
            np.random.set_state(before)


def central(inner: Strategy, options: Mapping[str, float], clients: int, seed: int) -> Strategy:
    """Return ``inner`` with Flower's central differential privacy around it.

    Args:
        inner: averages what ``clients`` clients send.
        options: ``noise_multiplier`` and ``clipping_norm``.
        clients: that take part in a round.
        seed: of the noise.
    """
    noised = strategy.DifferentialPrivacyServerSideFixedClipping(
        inner, options["noise_multiplier"], options["clipping_norm"], clients
    )
    return Seeded(noised, seed)


Select = Callable[[int, int], Sequence[int]]


def uniform(per_round: int, seed: int) -> Select:
    """Return a choice of ``per_round`` clients a round, without replacement, by the seed alone."""

    def select(round_: int, clients: int) -> list[int]:
        generator = np.random.default_rng(derive(seed, "participation", round_))
        return sorted(generator.choice(clients, size=per_round, replace=False).tolist())

    return select


class Driven(Wrapper):
    """Outermost: says who takes part, in which order, and from which round on.

    Flower samples with the global ``random`` over random node ids, and sums floats in order of
    arrival; here both follow the clients' numbers, so that every engine gives the same bits.
    """

    def __init__(self, inner: Strategy, select: Select, *, first_round: int = 1) -> None:
        super().__init__(inner)
        self.select = select
        self.shift = first_round - 1  # Flower counts from 1 after a resume, too
        self._order: list[int] = []

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        round_ = server_round + self.shift
        self._order = list(grid.get_node_ids())
        chosen = [self._order[client] for client in self.select(round_, len(self._order))]
        if not chosen:
            return []
        messages = self.inner.configure_train(round_, arrays, config, Only(grid, chosen))
        return sorted(messages, key=lambda message: self._order.index(message.metadata.dst_node_id))

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        place = {node: row for row, node in enumerate(self._order)}
        ordered = sorted(
            replies, key=lambda reply: place.get(reply.metadata.src_node_id, len(place))
        )
        return self.inner.aggregate_train(server_round + self.shift, ordered)

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return []  # the utility is measured on held-out data, by the lab
