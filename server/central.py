"""Flower's central differential privacy, by the run's seed and for those who answered."""

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, Strategy
from typing_extensions import override

from fedsim.rng import derive
from server.strategies import Wrapper


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


class Central(DifferentialPrivacyServerSideFixedClipping):
    """Flower's central differential privacy, for as many clients as answered.

    A mean of fewer is moved further by each, so its noise is larger.
    """

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        self.num_sampled_clients = len(replies)
        if not replies:
            return None, None
        with np.errstate(divide="ignore"):
            return super().aggregate_train(server_round, replies)


def central(inner: Strategy, options: Mapping[str, float], clients: int, seed: int) -> Strategy:
    """Return ``inner`` with Flower's central differential privacy around it.

    Args:
        inner: averages what clients send.
        options: ``noise_multiplier`` and ``clipping_norm``.
        clients: that are asked in a round.
        seed: of the noise.
    """
    clip = np.float64(options["clipping_norm"])  # Flower divides by the norm of what may be 0
    return Seeded(Central(inner, options["noise_multiplier"], clip, clients), seed)
