"""The private Flower symbols that fedsim needs, all of them.

Flower 1.41 and 1.42 have no public way to make a Message outside a running app, to number it, to
have an empty Run, or to switch telemetry off once they are imported; nothing else of the project
touches a private symbol.
"""

import os

from flwr.app import Message, RecordDict
from flwr.supercore import telemetry
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


def set_identity(run_id: int = 1) -> None:
    """Give this process the identity without which ``Message(...)`` raises."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1


def empty_run(run_id: int = 1) -> Run:
    """Return a Run with nothing in it: what a Grid must have to offer."""
    return Run.create_empty(run_id=run_id)


def heed_telemetry_switch() -> None:
    """Have Flower heed ``FLWR_TELEMETRY_ENABLED`` as it is now: it read it when it was imported."""
    now = os.environ.get("FLWR_TELEMETRY_ENABLED", telemetry.FLWR_TELEMETRY_ENABLED)
    telemetry.FLWR_TELEMETRY_ENABLED = now


def stamp(message: Message, text: str) -> None:
    """Number a message, as Flower's own grids do when they push one."""
    message.metadata.__dict__["_message_id"] = text


def rewrap(content: RecordDict, message: Message) -> Message:
    """Return a message with the metadata of ``message`` and other content."""
    made: Message = Message(content=content, metadata=message.metadata)  # type: ignore[call-overload]
    return made
