from typing import Any

import datasets
import numpy as np
import pytest
from flwr_datasets.partitioner import IidPartitioner

from clients.data import DataSettings, shards
from clients.partitions import PARTITIONS, PARTITIONS_BY_COLUMN, divide
from fedsim.errors import BadInput
from tests.clients.parts import parts_of


def rows(count: int, **columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(count)], **columns})


def sizes(partition: str, count: int, clients: int, **columns: list[Any]) -> list[int]:
    settings = DataSettings(name="any", partition=partition)
    return [len(part) for part in shards(rows(count, **columns), settings, clients, seed=1)]


@pytest.mark.parametrize("partition", sorted(PARTITIONS))
def test_every_partition_gives_each_row_to_one_client_and_follows_the_seed(partition: str) -> None:
    train = rows(120, label=[i % 3 for i in range(120)])
    settings = DataSettings(name="any", partition=partition)
    first, again, other = (
        [part["text"][:] for part in parts_of(train, settings, 3, seed)] for seed in (1, 1, 2)
    )
    assert sorted(text for part in first for text in part) == sorted(train["text"])
    assert all(first)
    assert first == again
    assert first != other


def test_sizes_are_those_of_a_hand_count() -> None:
    assert sizes("iid", 10, 3) == [4, 3, 3]
    assert sizes("linear", 20, 4) == [2, 4, 6, 8]
    assert sizes("square", 30, 4) == [1, 4, 9, 16]
    # e, e^2, e^3 of their sum: 9.00 %, 24.47 %, 66.52 %; the last one gets what rounding leaves
    assert sizes("exponential", 90, 3) == [8, 22, 60]
    label = [0, 1] * 5
    assert sizes("inner_dirichlet", 10, 3, label=label) == [4, 3, 3]
    assert sizes("shard", 10, 2, label=label) == [
        4,
        4,
    ]  # four shards of 10 // 4 rows, two rows lost
    assert sizes("natural", 10, 2, label=label) == [5, 5]


def test_iid_clients_get_rows_from_everywhere() -> None:
    part = parts_of(rows(100), DataSettings(name="any"), 2)[0]
    number = [int(text.split()[1]) for text in part["text"]]
    assert 15 < sum(n < 50 for n in number) < 35  # 25 expected, standard deviation 2.5


@pytest.mark.parametrize(("count", "clients"), [(10, 3), (11, 4), (7, 7), (101, 8)])
def test_iid_clients_get_what_flowers_partitioner_gives_them(count: int, clients: int) -> None:
    flower = IidPartitioner(clients)
    order = np.random.default_rng(1).permutation(count)
    flower.dataset = datasets.Dataset.from_dict({"row": order})
    expected = [flower.load_partition(client)["row"][:] for client in range(clients)]
    assert divide(order, np.zeros(count, dtype=np.int64), "iid", clients, 0.5, 1) == expected


def test_natural_clients_are_the_first_values_in_sorted_order() -> None:
    train = rows(6, who=["eve", "adam", "eve", "noah", "adam", "eve"])
    settings = DataSettings(name="any", partition="natural", partition_by="who")
    parts = parts_of(train, settings, 2)
    assert [sorted(part["text"]) for part in parts] == [
        ["text 1", "text 4"],  # adam
        ["text 0", "text 2", "text 5"],  # eve
    ]


@pytest.mark.parametrize(("labels", "each"), [(2, 1), (3, 2), (5, 2)])
def test_pathological_clients_know_few_labels(labels: int, each: int) -> None:
    train = rows(60, label=[i % labels for i in range(60)])
    settings = DataSettings(name="any", partition="pathological")
    for part in parts_of(train, settings, 5):
        assert len(set(part["label"])) == each


@pytest.mark.slow
def test_alpha_decides_how_far_the_labels_of_clients_differ() -> None:
    train = rows(2_000, label=[i % 2 for i in range(2_000)])

    def spread(partition: str, alpha: float) -> float:
        settings = DataSettings(name="any", partition=partition, alpha=alpha)
        parts = parts_of(train, settings, 4)
        shares = [sum(part["label"]) / len(part) for part in parts]
        return float(max(shares) - min(shares))

    for partition in ("dirichlet", "inner_dirichlet"):
        assert spread(partition, 10_000.0) < 0.1 < 0.3 < spread(partition, 0.2)


def test_dirichlet_clients_of_little_data_may_be_small() -> None:
    settings = DataSettings(name="any", partition="dirichlet", alpha=5.0)
    parts = shards(rows(12, label=[0, 1] * 6), settings, clients=4, seed=1)
    assert sum(map(len, parts)) == 12  # the library's own minimum is 10 rows a client


@pytest.mark.parametrize("partition", sorted(PARTITIONS_BY_COLUMN))
def test_a_partition_by_column_takes_words_and_labels_that_train_lacks(partition: str) -> None:
    train = rows(40, label=[1, 3] * 20, who=["b", "d"] * 20)  # 0 and 2 may be held out only
    for by in ("label", "who"):
        settings = DataSettings(name="any", partition=partition, partition_by=by, alpha=5.0)
        parts = shards(train, settings, clients=2, seed=1)
        assert sum(map(len, parts)) == 40


@pytest.mark.parametrize(
    ("partition", "count", "clients", "message"),
    [
        ("iid", 3, 4, "federation.clients must be between 1 and the 3 rows to train on, got 4"),
        ("iid", 3, 0, "federation.clients must be between 1 and the 3 rows to train on, got 0"),
        ("natural", 9, 3, "data.partition 'natural' cannot divide 9 rows among 3 clients .*only 2"),
        ("shard", 9, 5, "two shards a client take 10 rows"),
        ("exponential", 9, 8, "data.partition 'exponential' cannot divide 9 rows among 8 clients"),
        ("pathological", 9, 9, "data.partition 'pathological' cannot .*Label: 1 is needed"),
        ("dirichlet", 9, 9, r"data.partition 'dirichlet' cannot .*data.alpha = 0.5\): The max"),
    ],
)
def test_rows_that_cannot_be_divided_so(
    partition: str, count: int, clients: int, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        sizes(partition, count, clients, label=[i % 5 == 1 for i in range(count)])


def test_a_partition_by_column_needs_the_column() -> None:
    for partition in PARTITIONS_BY_COLUMN:
        with pytest.raises(BadInput, match=f"'{partition}' goes by .*'label', but .* are text"):
            sizes(partition, 9, 2)


def test_a_client_without_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy:
        """Everything for client 0."""

        dataset: datasets.Dataset

        def load_partition(self, client: int) -> datasets.Dataset:
            return self.dataset if client == 0 else self.dataset.select([])

    monkeypatch.setitem(PARTITIONS, "iid", lambda plan: Greedy())
    with pytest.raises(BadInput, match=r"data\.partition 'iid' leaves client 1 without data"):
        sizes("iid", 9, 3)


def test_dividing_says_nothing_on_the_way(capfd: pytest.CaptureFixture[str]) -> None:
    for partition in PARTITIONS:
        sizes(partition, 40, 2, label=[0, 1] * 20)
    assert capfd.readouterr() == ("", "")


def test_inputs_stay_as_they_were() -> None:
    train = rows(20, label=[0, 1] * 10)
    before = train[:]
    shards(train, DataSettings(name="any", partition="shard"), clients=2, seed=1)
    assert train[:] == before
