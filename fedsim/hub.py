"""Asking the hub, briefly: its own libraries try for half a minute where there is no network."""

import queue
import threading
from collections.abc import Callable

PATIENCE = 5.0  # seconds


def ask(question: Callable[[], object]) -> None:
    """Have ``question`` asked, and wait for ``PATIENCE`` at most: a name server may take longer.

    Raises:
        TimeoutError: nothing came of it in time; it may go on, and keeps nothing waiting.
        Exception: whatever it raised.
    """
    answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def asking() -> None:
        try:
            question()
        except BaseException as error:
            answers.put(error)
        else:
            answers.put(None)

    threading.Thread(target=asking, daemon=True).start()
    try:
        failure = answers.get(timeout=PATIENCE)
    except queue.Empty:
        raise TimeoutError(f"the hub did not answer within {PATIENCE:g} s") from None
    if failure is not None:
        raise failure
