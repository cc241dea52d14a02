"""Let the server have the sum of the clients' updates and none of them.

Source:      Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine
             Learning", CCS 2017, as its ideal functionality (server/secagg.py).
Guarantee:   none: the sum is the update of a larger batch, and gives no sentence any noise.
Deviations:  the protocol's rounding to integers is not simulated; Flower's SecAgg+ runs in a test.
"""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from defenses.base import Defense, Setting
from fedsim.errors import BadInput

FEWEST = 3


@dataclass(frozen=True, kw_only=True)
class SecAgg(Defense):
    """Sum the round's updates out of the server's sight."""

    sums: ClassVar = True

    @override
    def check(self, setting: Setting) -> None:
        if setting.clients_per_round < FEWEST:
            raise BadInput(
                f"defense secagg: federation.clients_per_round must be at least {FEWEST}, got "
                f"{setting.clients_per_round}: of two clients, each knows the other by the sum"
            )
