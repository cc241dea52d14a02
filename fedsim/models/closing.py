"""The last MLP in the open: what its output map reads, and what follows it up to the logits."""

from dataclasses import dataclass

from torch import Tensor

from fedsim.models.norms import Norm
from fedsim.models.workspace import Lease, Leased


@dataclass(frozen=True, kw_only=True)
class Closing(Leased):
    """The end of a decoder for N (sequence, position) pairs, at one set of weights.

    It shares the workspace: once other weights are loaded, reading a field raises RuntimeError.

    Attributes:
        activations: (N, I) what the last MLP's output map reads.
        states: (N, D) the residual stream that the last norm reads.
        norm: the last norm.
        head: (K, D) from the norm's output to logits: of labels, or of the vocabulary.
        lease: of the weights it shares.
    """

    activations: Tensor
    states: Tensor
    norm: Norm
    head: Tensor
    lease: Lease | None = None
