"""The last MLP in the open: what its output map reads, and what follows it up to the logits."""

from dataclasses import dataclass

from torch import Tensor

from fedsim.models.opening import Norm


@dataclass(frozen=True, kw_only=True)
class Closing:
    """The end of a decoder for N (sequence, position) pairs, at one set of weights.

    Attributes:
        activations: (N, I) what the last MLP's output map reads.
        states: (N, D) the residual stream that the last norm reads.
        norm: the last norm.
        head: (K, D) from the norm's output to logits: of labels, or of the vocabulary.
    """

    activations: Tensor
    states: Tensor
    norm: Norm
    head: Tensor
