"""The vocabulary of a curious server: messages, models, captures; nothing here knows the truth."""

import os

# Threads that spin while they wait slow each other down by a factor of ten on a busy machine. It
# counts only where torch is not loaded yet, as under the command.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
