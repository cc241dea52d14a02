"""Secure aggregation as its ideal functionality: the server gets the sum and nothing else.

Source:     Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
            CCS 2017, figure 1: what the protocol is to compute, whoever computes it; Flower's
            SecAgg+ (Bell et al., CCS 2020, arXiv:2006.02481) is one that does.
Deviations: a sum of floats instead of integers modulo 2^32; SecAgg+'s rounding is not simulated.

It stands for the cryptography, so it lies beneath the tap: what the server's side sees of a round
is one reply, the weighted mean of all clients' updates, with the number of examples in all.
"""

import functools
from collections.abc import Iterable, Sequence

import torch
from flwr.app import Message
from torch import Tensor
from typing_extensions import override

from fedsim.errors import ClientFailure
from fedsim.messages import Update
from fedsim.tap import GridProxy
from fedsim.tap.exchange import last_line
from fedsim.wire import read_own_update, sum_content

LINEAR = ("fedadagrad", "fedadam", "fedavg", "fedavgm", "fedprox", "fedyogi")
"""The strategies that need no more than a mean."""
FEWEST = 3  # clients: of two, either one knows the other's update by the sum


class SecureSum(GridProxy):
    """Answers a round's training messages with one reply: the sum over the clients that answered.

    The reply is to the first of them. A client that failed is known to have failed.
    """

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        replies = list(self.inner.send_and_receive(messages, timeout=timeout))
        if not messages or not messages[0].metadata.message_type.startswith("train"):
            return replies
        place = {message.metadata.message_id: row for row, message in enumerate(messages)}
        answered = [reply for reply in replies if not reply.has_error()]
        answered.sort(key=lambda reply: place[reply.metadata.reply_to_message_id])
        failed = [reply for reply in replies if reply.has_error()]
        if len(answered) < FEWEST:
            reasons = [
                f"; {last_line(reply.error.reason or 'no reason given')}" for reply in failed[:1]
            ]
            raise ClientFailure(
                f"secure aggregation needs the answers of {FEWEST} clients, got {len(answered)}"
                + "".join(reasons)
            )
        nodes = [reply.metadata.src_node_id for reply in answered]
        updates = [read_own_update(reply.content) for reply in answered]
        answered[0].content = sum_content(weighted_mean(updates), nodes)
        return [answered[0], *failed]


def weighted_mean(updates: Sequence[Update]) -> Update:
    """Return the mean of ``updates``, weighted by their examples, as one; no client's metrics.

    Summed in float64, in the order given.
    """
    total = sum(update.num_examples for update in updates)
    shares = [update.num_examples / total for update in updates]
    return Update(
        tensors={name: _mean(name, updates, shares) for name in updates[0].tensors},
        kind=updates[0].kind,
        num_examples=total,
    )


def _mean(name: str, updates: Sequence[Update], shares: Sequence[float]) -> Tensor:
    tensors: list[Tensor] = [update.tensors[name] for update in updates]
    total = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        total += share * tensor.double()
    widest = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return total.to(widest)  # in another's the mean may be infinite
