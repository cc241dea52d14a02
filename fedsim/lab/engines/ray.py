"""Flower's simulation engine: clients as actors on Ray."""

import contextlib
import logging
import os
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedsim.errors import RunFailed
from fedsim.flower import heed_telemetry_switch
from fedsim.lab.engines.base import Resources
from fedsim.lab.environment import set_environment, shut_in_ray


def run_ray(server: ServerApp, client: ClientApp, clients: int, resources: Resources) -> None:
    """Run both apps on Flower's simulation engine.

    Raises:
        RunFailed: Ray has not the resources for a single client.
    """
    set_environment()  # before Ray is imported; its workers inherit it
    if not resources.address:
        shut_in_ray()
    heed_telemetry_switch()
    from flwr.simulation import run_simulation  # here, because it takes a second: it imports Ray

    backend: Any = {
        # Flower hands all of it to its actors. Without a restart an actor that died, and it dies
        # with its client, fails every later client; without a retry those of the meantime.
        "client_resources": {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_restarts": -1,
            "max_task_retries": 1,
        },
        "init_args": {
            "address": resources.address or "local",
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        },
    }
    try:
        # Ray tells of deaths and retries where results belong; the server is told, and tells.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            run_simulation(server, client, num_supernodes=clients, backend_config=backend)
    except ValueError as error:
        if "ActorPool is empty" not in str(error):
            raise
        raise RunFailed(
            f"Ray cannot start a single client with {resources.cpus:g} CPUs and "
            f"{resources.gpus:g} GPUs here; lower federation.cpus_per_client"
        ) from error
