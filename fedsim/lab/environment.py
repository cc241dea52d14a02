"""What the libraries read from the environment: set by whoever starts them, at no import of ours.

The command sets it before it imports torch, Flower or Ray, an engine before it starts one of them.
A program of your own calls :func:`set_environment` first of all, or sets what it wants itself:
nothing that is set already is changed.
"""

import logging
import os
import secrets
import tempfile

from fedsim.linux import keep_memory_private
from fedsim.printing import printable_lines


def defaults() -> dict[str, str]:
    """Return what is set where nobody has: no telemetry, no calls home, no files in $HOME."""
    return {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_HOME": os.path.join(tempfile.gettempdir(), f"fedsim-flower-{os.getuid()}"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # Threads that spin while they wait slow each other down by a factor of ten on a busy
        # machine. It counts only where torch is not loaded yet, as under the command.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def shut_in_ray() -> None:
    """Have the Ray that this process starts listen on 127.0.0.1 alone, to who knows its token.

    Both are read when Ray is imported, and by its processes, which inherit them. Of those only ours
    keep the token from the user's other processes: a worker of ours sees none of them from Linux
    6.7 on, see :func:`fedsim.linux.see_no_other`.
    """
    keep_memory_private()
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Linux too: no cluster, so loopback
    if "RAY_AUTH_MODE" not in os.environ:  # one that knows no tokens pays no heed
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def set_environment() -> None:
    """Set what Flower, Ray, Hugging Face and OpenMP read, most of it when they are imported."""
    for name, value in defaults().items():
        os.environ.setdefault(name, value)


def _shown(record: logging.LogRecord) -> bool:
    """Have a record quote what a client raised without what would drive the terminal."""
    record.msg, record.args = printable_lines(record.getMessage()), ()
    return True


def quiet_libraries() -> None:
    """Keep the libraries' chatter from the terminal: ours is what the user asked for."""
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.ERROR)
    flower.addFilter(_shown)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
