"""A program: it starts Ray as a run does, and looks at it from within the server's app.

Prints JSON: where Ray's processes listen, what a stranger without the token is told, and what each
client answered in two rounds, in the first of which one of them died.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedsim.lab.engines import ENGINES, Resources
from fedsim.lab.environment import quiet_libraries
from fedsim.tap.keys import PARTITION
from server import PartitionedGrid

CLIENTS, DIES = 4, 1
MARK = "FEDSIM_PROBE"  # in the environment of all that this program starts
LISTENS = "0A"
STRANGER = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR')"


def family() -> list[Path]:
    """The processes that this program started, and itself."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and mark in (process / "environ").read_bytes():
                found.append(process)
        except OSError:
            continue
    return found


def listening(processes: list[Path]) -> list[str]:
    """The addresses on which ``processes`` listen, as hexadecimal:port."""
    places = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS:
                places[f"socket:[{fields[9]}]"] = fields[1]
    held = set[str]()
    for process in processes:
        try:
            links = [os.readlink(descriptor) for descriptor in (process / "fd").iterdir()]
        except OSError:
            continue
        held.update(places[link] for link in links if link in places)
    return sorted(held)


def head_of(processes: list[Path]) -> str:
    """Where Ray's head listens, from a command line."""
    for process in processes:
        for word in (process / "cmdline").read_bytes().decode().split("\0"):
            if word.startswith("--gcs-address="):
                return word.partition("=")[2]
    raise LookupError("no process of Ray's")


def stranger(address: str) -> str:
    """What a process without the token is told by Ray's head."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_AUTH", MARK))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STRANGER, address],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return f"{done.returncode} {done.stderr}"


def client_app() -> ClientApp:
    app = ClientApp()

    @app.query()
    def whoami(message: Message, context: Context) -> Message:
        # As fedsim.wire has it, but that imports torch, which takes a client's process seconds.
        node = ConfigRecord({PARTITION: int(context.node_config[PARTITION])})
        return Message(RecordDict({"node": node}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        if client == DIES and message.content.config_records["config"]["round"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return Message(RecordDict({"answer": ConfigRecord({"client": client})}), reply_to=message)

    return app


def server_app(found: dict[str, Any]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        known = PartitionedGrid(grid, CLIENTS)
        nodes = list(known.get_node_ids())
        processes = family()
        found["listening"] = listening(processes)
        found["stranger"] = stranger(head_of(processes))
        found["rounds"] = []
        for round_ in (1, 2):
            content = RecordDict({"config": ConfigRecord({"round": round_})})
            sent = [Message(content, node, "train") for node in nodes]
            replies = list(known.send_and_receive(sent, timeout=120))
            told = {known.partition[reply.metadata.src_node_id]: reply for reply in replies}
            failed = {c: reply.error.reason for c, reply in told.items() if reply.has_error()}
            found["rounds"].append({client: failed.get(client, "") for client in told})

    return app


if __name__ == "__main__":
    found: dict[str, Any] = {}
    quiet_libraries()
    ENGINES["ray"](server_app(found), client_app(), CLIENTS, Resources(cpus=1.0, gpus=0.0))
    print(json.dumps(found))
