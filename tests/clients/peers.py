"""What a client's process may do to the pipe that it is asked through; quick to import."""

import os
import pickle
import struct
import time
from multiprocessing.connection import Connection


def asleep(pipe: Connection) -> None:
    time.sleep(600.0)


def halves(pipe: Connection) -> None:
    """Send that all is loaded, and then the length of an update, and no more."""
    pipe.recv_bytes()
    pipe.send_bytes(pickle.dumps((False, 4)))
    os.write(pipe.fileno(), struct.pack("!i", 10**6))
    time.sleep(600.0)
