"""DP-SGD, read in two places: before the optimizer's step, as a paper did, and on the wire.

The DP table of arXiv:2406.00999 read ``param.grad`` after ``backward`` and before Opacus' step,
where clipping and noise happen: that gradient is raw, so noise seems not to help. On the wire each
example is clipped to C = 1, the sum gets N(0, (sigma C)^2), and both are divided by B: the defense
``dp-sgd`` itself. CoLA, B = 1, MiniLM, LAMP with the papers' knowledge; on the wire it is told of
the defense, too.
"""

import functools
from typing import Any

import torch
from common.victims import Victim, minilm, texts
from matching.shared import begin, measured, prior_note
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer

from attacks import Lamp
from defenses import DPSGD
from defenses.dp.ghost import owners
from fedsim.local import LocalTraining
from fedsim.training import Examples, TrainingSettings, mean_gradient

UPDATES = 5
CLIP = 1.0
SIGMAS = (0.0, 1e-4, 1e-3, 0.01, 0.1, 0.5)


def read_early(who: Victim, examples: Examples, sigma: float) -> dict[str, float]:
    """Return how far Opacus' gradients are from the raw one, of norm 1: before its step, after it.

    Clipping, noise and averaging are the step's; ``backward`` leaves the raw gradient.
    """
    raw, _ = LocalTraining(who.adapter, TrainingSettings())(
        who.parameters, examples, torch.Generator()
    )
    module = who.adapter.load(who.parameters)
    for part in owners(module):
        part.training = True  # Opacus samples no gradients of others; dropout stays off
    watched = GradSampleModule(module, strict=False)
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=0.0),
        noise_multiplier=sigma,
        max_grad_norm=CLIP,
        expected_batch_size=1,
        generator=torch.Generator().manual_seed(1),
    )
    try:
        mean_gradient(module, who.adapter, examples, torch.Generator())
        found = {"before": away(module, raw)}
        optimizer.pre_step()
        return {**found, "after": away(module, raw)}
    finally:
        watched.to_standard_module()
        module.train(False)
        module.zero_grad(set_to_none=True)


def away(module: torch.nn.Module, raw: dict[str, Any]) -> float:
    """Return ||p.grad - raw|| / ||raw|| over all parameters."""
    pairs = [(p.grad, raw[name]) for name, p in module.named_parameters() if name in raw]
    rest = torch.stack([(o if g is None else g - o).norm() for g, o in pairs]).norm()
    return float(rest / torch.stack([o.norm() for _, o in pairs]).norm())


def main() -> None:
    """Measure what is not there yet."""
    options, cells = begin("matching_dp", "noise on the wire stops LAMP; read before it, none does")
    who = minilm(options.layers)
    pool = texts(who, "cola")
    attack = Lamp(steps=options.steps)
    told = {"layers": options.layers, "attack": repr(attack), **prior_note(options)}

    def early(index: int) -> dict[str, Any]:
        examples = pool.draw(1, 1, index)
        opacus = {f"sigma={sigma:g}": read_early(who, examples, sigma) for sigma in SIGMAS}
        return {**measured(who, pool, attack, index), "distance_from_raw": opacus}

    cells.fill("before the step, any sigma", told, UPDATES, early)
    for sigma in SIGMAS:
        defense = DPSGD(noise_multiplier=sigma, clip=CLIP)
        wire = functools.partial(measured, who, pool, attack, defense=defense)
        cells.fill(f"sigma={sigma:g}, on the wire", {**told, "sigma": sigma}, UPDATES, wire)


if __name__ == "__main__":
    main()
