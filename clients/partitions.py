"""How the rows of a train set are divided among clients: the partitioners of flwr-datasets."""

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np

Integers = np.ndarray[Any, np.dtype[np.int64]]


def divide(
    order: Integers, groups: Integers, partition: str, clients: int, alpha: float, seed: int
) -> list[list[int]]:
    """Return each client's rows.

    Args:
        order: the rows, shuffled.
        groups: of each of them, in that order, the number of its group; all 0 where none matters.
        partition: a key of ``PARTITIONS``.
        clients: how many there are.
        alpha: Dirichlet concentration.
        seed: of the partitioners that draw.

    Raises:
        ValueError: they cannot be divided so.
    """
    index = datasets.Dataset.from_dict({"row": order, "group": groups})
    chosen = PARTITIONS[partition](
        _Plan(len(order), len(set(groups.tolist())), clients, alpha, seed)
    )
    chosen.dataset = index
    # One redraws with a warning each time, one shows a progress bar.
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return [chosen.load_partition(client)["row"][:] for client in range(clients)]


@dataclass(frozen=True)
class _Plan:
    rows: int
    groups: int  # different values in the column that the partition goes by
    clients: int
    alpha: float
    seed: int


_Maker = Callable[[_Plan], Any]  # -> a Partitioner


def _flower() -> Any:
    from flwr_datasets import partitioner  # here, because it takes a second: it imports matplotlib

    return partitioner


@dataclass
class _Even:
    """IidPartitioner without that second, which the default partition would cost every run."""

    plan: _Plan
    dataset: datasets.Dataset = field(init=False)

    def load_partition(self, client: int) -> datasets.Dataset:
        return self.dataset.shard(self.plan.clients, client, contiguous=True)


def _inner_dirichlet(plan: _Plan) -> Any:
    sizes = [len(part) for part in np.array_split(np.arange(plan.rows), plan.clients)]
    return _flower().InnerDirichletPartitioner(sizes, "group", plan.alpha, seed=plan.seed)


def _natural(plan: _Plan) -> Any:
    # With more groups than clients the first ones in sorted order take part, as under Flower.
    if plan.groups < plan.clients:
        raise ValueError(f"data.partition_by has only {plan.groups} different values")
    return _flower().NaturalIdPartitioner("group")


def _pathological(plan: _Plan) -> Any:
    # Two labels a client (McMahan et al., AISTATS 2017, sec. 3), one if there are only two.
    labels = 1 if plan.groups < 3 else 2
    return _flower().PathologicalPartitioner(
        plan.clients, "group", labels, class_assignment_mode="deterministic", seed=plan.seed
    )


def _shard(plan: _Plan) -> Any:
    # Two shards of the sorted rows a client (McMahan et al., AISTATS 2017, sec. 3).
    if plan.rows < 2 * plan.clients:
        raise ValueError(f"two shards a client take {2 * plan.clients} rows")
    return _flower().ShardPartitioner(plan.clients, "group", 2, seed=plan.seed)


PARTITIONS_BY_COLUMN: dict[str, _Maker] = {
    "dirichlet": lambda plan: _flower().DirichletPartitioner(
        plan.clients, "group", plan.alpha, min_partition_size=1, seed=plan.seed
    ),
    "inner_dirichlet": _inner_dirichlet,
    "natural": _natural,
    "pathological": _pathological,
    "shard": _shard,
}
PARTITIONS: dict[str, _Maker] = {
    "exponential": lambda plan: _flower().ExponentialPartitioner(plan.clients),
    "iid": _Even,
    "linear": lambda plan: _flower().LinearPartitioner(plan.clients),
    "square": lambda plan: _flower().SquarePartitioner(plan.clients),
    **PARTITIONS_BY_COLUMN,
}
