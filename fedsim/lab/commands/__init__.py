"""The commands, one a file; each module's ``add`` puts its parser among the others."""

from fedsim.lab.commands import (
    attack,
    audit_dp,
    clean,
    compare,
    gate,
    inspect,
    list,
    report,
    run,
    sweep,
    train_prior,
)

COMMANDS = {
    "run": run.add,
    "sweep": sweep.add,
    "compare": compare.add,
    "attack": attack.add,
    "inspect": inspect.add,
    "report": report.add,
    "gate": gate.add,
    "clean": clean.add,
    "audit-dp": audit_dp.add,
    "train-prior": train_prior.add,
    "list": list.add,
}
"""How each command adds itself to the parser, in the order of ``--help``."""

__all__ = ["COMMANDS"]
