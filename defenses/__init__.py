"""Defenses: one mechanism a file; those of differential privacy share a room."""

from defenses.base import Defense, Guarantee
from defenses.dp import DPSGD, CentralDP, Gaussian
from defenses.dropout import Dropout
from defenses.ffa_lora import FFALoRA
from defenses.freeze import Freeze
from defenses.lora import LoRA
from defenses.none import NoDefense
from defenses.quantize import Quantize
from defenses.random_mask import RandomMask
from defenses.secagg import SecAgg
from defenses.sign import Sign
from defenses.topk import TopK
from defenses.truncated_svd import TruncatedSVD
from fedsim.plugins import Plugins, table

DEFENSES: dict[str, type[Defense]] = {
    "central-dp": CentralDP,
    "dp-sgd": DPSGD,
    "dropout": Dropout,
    "ffa-lora": FFALoRA,
    "freeze": Freeze,
    "gaussian": Gaussian,
    "lora": LoRA,
    "none": NoDefense,
    "quantize": Quantize,
    "random-mask": RandomMask,
    "secagg": SecAgg,
    "sign": Sign,
    "topk": TopK,
    "truncated-svd": TruncatedSVD,
}


def defense_table() -> Plugins[Defense]:
    """Return every defense by name: the project's own and those registered by others."""
    return table("fedsim.defenses", Defense, DEFENSES)


__all__ = [
    "DEFENSES",
    "DPSGD",
    "CentralDP",
    "Defense",
    "Dropout",
    "FFALoRA",
    "Freeze",
    "Gaussian",
    "Guarantee",
    "LoRA",
    "NoDefense",
    "Quantize",
    "RandomMask",
    "SecAgg",
    "Sign",
    "TopK",
    "TruncatedSVD",
    "defense_table",
]
