"""LoRA's B as a sum over as many inputs as one says."""

import torch


def moved(inputs: int, rank: int, seed: int = 1) -> torch.Tensor:
    """B's gradient (K, R) of so many inputs, each seen through A, in float32 as a client has it."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(inputs, rank, generator=generator)
    return (torch.randn(96, inputs, generator=generator) @ seen) / inputs
