"""DP-SGD, read in two places: before the optimizer's step, as a paper did, and on the wire.

The DP table of arXiv:2406.00999 read ``param.grad`` after ``backward`` and before Opacus' step,
where clipping and noise happen: that gradient is raw, so noise seems not to help. On the wire each
example is clipped to C = 1, the sum gets N(0, (sigma C)^2), and both are divided by B. Clip and
noise are spelt out here. CoLA, B = 1, MiniLM, LAMP with the papers' knowledge; on the wire also
knowing the clip.
"""

from typing import Any

import torch
from matching_common import (
    attacked,
    begin,
    minilm,
    observation,
    prior_note,
    texts,
    unrelated,
    update_of,
)
from torch import Tensor

from attacks import Lamp
from fedsim.messages import DefenseInForce, Update
from fedsim.rng import stream

UPDATES = 5
CLIP = 1.0
SIGMAS = (0.0, 1e-4, 1e-3, 0.01, 0.1, 0.5)


def clipped_and_noised(tensors: dict[str, Tensor], sigma: float, seed: int) -> dict[str, Tensor]:
    """Return what one example's gradient is on the wire (B = 1)."""
    norm = torch.stack([one.norm() for one in tensors.values()]).norm()
    factor = min(1.0, CLIP / float(norm))
    generator = stream(seed, "noise")
    return {
        name: factor * one + sigma * CLIP * torch.randn(one.shape, generator=generator)
        for name, one in tensors.items()
    }


def main() -> None:
    """Measure what is not there yet."""
    options, cells = begin("matching_dp", "noise on the wire stops LAMP; read before it, none does")
    who = minilm(options.layers)
    pool = texts(who, "cola")
    for sigma in SIGMAS:
        for place in ("before the step", "on the wire"):

            def measure(index: int, sigma: float = sigma, place: str = place) -> dict[str, Any]:
                examples = pool.draw(1, 1, index)
                update = update_of(who, examples, dropout=False, seed=index)
                told: dict[str, Any] = {}
                if place == "on the wire":
                    tensors = clipped_and_noised(dict(update.tensors), sigma, index)
                    update = Update(tensors=tensors, kind="gradient", num_examples=1)
                    numbers = {"clip": CLIP, "noise_multiplier": sigma}
                    told["defense"] = (DefenseInForce(name="dp-sgd", numbers=numbers),)
                seen = observation(who, examples, update, **told)
                row = attacked(who, seen, examples, Lamp(), index)
                others = pool.draw(1, 2, index)
                return {**row, "unrelated": unrelated(who, examples, others)}

            settings = {"layers": options.layers, "sigma": sigma, **prior_note(options)}
            count = UPDATES if place == "on the wire" or not sigma else 0  # raw is raw: once
            cells.fill(f"sigma={sigma:g} {place}", settings, count, measure)


if __name__ == "__main__":
    main()
