"""The parts of a data set that its clients hold."""

import datasets

from clients.data import DataSettings, shards


def parts_of(
    train: datasets.Dataset, settings: DataSettings, clients: int, seed: int = 1
) -> list[datasets.Dataset]:
    """Return the rows of each client."""
    return [train.select(part) for part in shards(train, settings, clients, seed)]
