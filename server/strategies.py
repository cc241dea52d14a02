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
from fedsim.tap.arrays import view
from fedsim.tap.keys import ARRAYS
from fedsim.wire import update_kind
from server.grids import Only
from server.options import check_clients, check_options
from server.rates import RATE, told
from server.steps import like, moved, step_of

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
    for key in options:
        if key in everyone:  # Flower would draw again, from the global random
            raise BadInput(
                f"federation.strategy_options: {name}: {key} is set by fedsim; who takes part is "
                "federation.clients_per_round"
            )
    check_options(name, options)
    if clients is not None:
        check_clients(name, options, clients)
    try:
        return STRATEGIES[name](**{**everyone, **options})
    except (TypeError, ValueError) as error:  # one that has no default is not there
        raise BadInput(f"federation.strategy_options: {name}: {error}") from error


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
    Failures are taken away: some of Flower's strategies would drop the whole round for one.

    Args:
        inner: the strategy.
        learning_rate: of a round whose config has none.
    """

    def __init__(self, inner: Strategy, *, learning_rate: float) -> None:
        super().__init__(inner)
        self.learning_rate = learning_rate
        self._rate = learning_rate
        self._sent = ArrayRecord()

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._sent = arrays
        self._rate = told(config, self.learning_rate)
        return self.inner.configure_train(server_round, arrays, config, grid)

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        answered = [self._applied(reply) for reply in replies if not reply.has_error()]
        arrays, metrics = self.inner.aggregate_train(server_round, answered)
        if arrays is None:
            return None, metrics
        kept = {k: Array(like(view(a), self._sent[k])) for k, a in arrays.items()}
        return ArrayRecord(kept), metrics

    def _applied(self, reply: Message) -> Message:
        """Return ``reply`` with weights under the key, in the order and of the dtypes as sent."""
        kind = update_kind(reply.content)
        (name, arrays), *_ = reply.content.array_records.items()
        weights: dict[str, Array] = {}
        for k, sent in self._sent.items():
            values = view(arrays[k])
            if kind is None:  # of a client that sends weights
                weights[k] = Array(like(values, sent))
            else:
                weights[k] = Array(moved(sent, values, step_of(kind, self._rate)))
        records = {k: v for k, v in reply.content.items() if k != name}
        reply.content = RecordDict({**records, ARRAYS: ArrayRecord(weights)})
        return reply


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
    arrival; here both follow the clients' numbers, so that every engine gives the same bits. Where
    a strategy makes no aggregate, Flower keeps the weights as they are and says so to nobody.

    Args:
        inner: the strategy.
        select: who takes part in a round.
        first_round: where it begins.
        must_move: whether a round without an aggregate ends the run.
        rate: the learning rate of a round; None: what the config says.
    """

    def __init__(
        self,
        inner: Strategy,
        select: Select,
        *,
        first_round: int = 1,
        must_move: bool = False,
        rate: Callable[[int], float] | None = None,
    ) -> None:
        super().__init__(inner)
        self.select = select
        self.must_move = must_move
        self.rate = rate
        self.stayed = False  # whether the last round left the weights as they were
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
        if self.rate:
            config = ConfigRecord({**config, RATE: self.rate(round_)})
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
        round_ = server_round + self.shift
        arrays, metrics = self.inner.aggregate_train(round_, ordered)
        self.stayed = arrays is None
        if self.stayed and self.must_move:
            answered = sum(not reply.has_error() for reply in ordered)
            raise RunFailed(
                f"round {round_}: the strategy made no aggregate of the {answered} replies"
            )
        return arrays, metrics

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return []  # the utility is measured on held-out data, by the lab
