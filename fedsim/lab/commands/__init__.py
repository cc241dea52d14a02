"""The commands, one a file; each module's ``add`` puts its parser among the others."""

from fedsim.lab.commands import attack, list, run, train_prior

COMMANDS = {"run": run.add, "attack": attack.add, "list": list.add, "train-prior": train_prior.add}
"""How each command adds itself to the parser, in the order of ``--help``."""

__all__ = ["COMMANDS"]
