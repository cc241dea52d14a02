"""One simulation of a project by Flower's own engine, in a process of its own, and a witness of it.

    python -c "from field.simulate import main; main()" PROJECT SPEC.json

The witness stands behind Flower's FedAvg, old and new, which all of the projects use: what each
round's replies stated and what was made of them. It knows nothing of a tap.
"""

import hashlib
import json
import logging
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim.lab.environment import set_environment, shut_in_ray


class Witness:
    """Writes a line for each round's aggregate, and keeps the last one.

    A line: the round, [node, examples stated] of each reply, and the aggregate's SHA-256.
    """

    def __init__(self, folder: Path) -> None:
        self._log, self._last = folder / "witness.jsonl", folder / "final.npy"

    def stand(self) -> None:
        """Have both FedAvgs show what they aggregate."""
        from flwr.common import parameters_to_ndarrays
        from flwr.server.strategy import FedAvg as Legacy
        from flwr.serverapp.strategy import FedAvg

        train, fit = FedAvg.aggregate_train, Legacy.aggregate_fit

        def aggregate_train(strategy: Any, server_round: int, replies: Any) -> Any:
            replies = list(replies)
            stated = [_stated(reply) for reply in replies if not reply.has_error()]
            arrays, metrics = train(strategy, server_round, replies)
            if arrays is not None:
                self._note(server_round, stated, arrays.to_numpy_ndarrays())
            return arrays, metrics

        def aggregate_fit(strategy: Any, server_round: int, results: Any, failures: Any) -> Any:
            stated = [(str(proxy.cid), result.num_examples) for proxy, result in results]
            parameters, metrics = fit(strategy, server_round, results, failures)
            if parameters is not None:
                self._note(server_round, stated, parameters_to_ndarrays(parameters))
            return parameters, metrics

        setattr(FedAvg, "aggregate_train", aggregate_train)  # noqa: B010
        setattr(Legacy, "aggregate_fit", aggregate_fit)  # noqa: B010

    def _note(self, round_: int, stated: Sequence[Any], arrays: Sequence[np.ndarray]) -> None:
        flat = np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        line = {"round": round_, "stated": stated, "digest": digest.hexdigest()}
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        np.save(self._last, flat)


def _stated(reply: Any) -> tuple[str, float]:
    metrics = next(iter(reply.content.metric_records.values()))
    return str(reply.metadata.src_node_id), metrics["num-examples"]


def main() -> None:
    """Run the project in the folder that the first argument names; the second says how."""
    folder, spec = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    set_environment()  # before Ray is imported
    shut_in_ray()
    sys.path.insert(0, str(folder))
    logging.getLogger("flwr").setLevel(logging.INFO)
    torch.manual_seed(spec["seed"])  # what a server draws at its start
    Witness(folder).stand()
    _simulate(folder, spec["config"], spec["supernodes"])
    (folder / "ended").touch()


def _simulate(folder: Path, override: dict[str, Any], supernodes: int) -> None:
    """Run an app's folder as ``flwr run`` has it run: its own config, overridden in part.

    ``run_simulation`` is the same engine, but gives apps no config at all.
    """
    from flwr.app import Context, RecordDict
    from flwr.common.config import get_fused_config_from_dir
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.constant import NOOP_FEDERATION_ID
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supercore.telemetry import EventType

    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    parts = project["tool"]["flwr"]["app"]["components"]
    run = Run.create_empty(run_id=1)
    run.override_config, run.primary_task_id, run.federation_id = override, 1, NOOP_FEDERATION_ID
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    config = get_fused_config_from_dir(folder, override)
    _run_simulation(
        num_supernodes=supernodes,
        exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
        client_app_attr=parts["clientapp"],
        server_app_attr=parts["serverapp"],
        server_app_context=Context(1, 0, {}, RecordDict(), config),
        app_dir=str(folder),
        run=run,
        is_app=True,
        backend_config={
            "client_resources": {"num_cpus": 2, "num_gpus": 0.0},  # one client at a time
            "init_args": {"num_cpus": 2, "include_dashboard": False, "address": "local"},
        },
    )
