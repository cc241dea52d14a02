"""A client's own notes of what it trains on: for who scores, on that machine, what is read of it.

They are the truth, and no part of any message: they stay where the client is, and whoever audits
brings the files to ``fedsim attack --truth``.
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from flwr.app import ConfigRecord, Context, Message

from fedsim.files import append_line
from fedsim.tap.exchange import fault
from fedsim.tap.keys import told_round

logger = logging.getLogger("fedsim.tap")

STATE = "fedsim.truth"  # in a client's own state, which no message has: messages by directory


class Notebook:
    """What all notes of one directory share, in one process: whose message is answered, by thread.

    Ray makes a second object of a mod that it unpickles, and an app's module has its first: what
    one of them sees as a mod, ``note`` of the other must know.
    """

    _open: ClassVar[dict[Path, "Notebook"]] = {}

    def __init__(self) -> None:
        self.now = threading.local()  # of the message that is being answered
        self.counts = Counter[tuple[int, int]]()  # messages of a run's node, where none says rounds
        self.lock = threading.Lock()

    @classmethod
    def of(cls, root: Path) -> "Notebook":
        """Return the one of a directory, however it is written."""
        return cls._open.setdefault(Path(os.path.realpath(root)), cls())

    def next_round(self, context: Context, root: Path) -> int:
        """Count one more message of a node, by its state, too: a process may live for one alone.

        Where a client fails its state is not kept, and this process knows of the message.
        """
        run, node, name = context.run_id, context.node_id, os.path.realpath(root)
        with self.lock:
            kept = dict(context.state.config_records.get(STATE, {}))
            so_far = kept.get(name)
            before = so_far if isinstance(so_far, int) else 0
            self.counts[run, node] = max(self.counts[run, node], before) + 1
            context.state[STATE] = ConfigRecord({**kept, name: self.counts[run, node]})
            return self.counts[run, node]


class TruthNotes:
    """A mod of a ClientApp, and a notebook of its own machine.

    ::

        truth = TruthNotes("/data/truth")

        @app.train(mods=[truth])
        def train(message, context):
            ...
            truth.note(texts, labels)

    A line of ``node=N.jsonl`` is a text: ``{"node", "round", "text"}``, and ``label`` where it has
    one. It never raises: what cannot be noted is said in the log, and the training goes on. As a
    mod of a whole ``ClientApp`` it sees evaluations, too: what is noted then is no truth, and is
    left out, so that ``note`` may stand where a client loads its data. Two of one directory, of
    other prefixes each, note what either waits for.

    Where no message says its round, messages are counted, in the client's ``context.state``.

    Args:
        root: a directory for the notes of a run, made so that this user alone can read it.
        prefix: of the types of messages that train, as TapGrid's.
    """

    def __init__(self, root: str | Path, prefix: str = "train") -> None:
        self.root = Path(root).absolute()
        self.prefix = prefix
        self._book = Notebook.of(self.root)

    def __reduce__(self) -> tuple[type["TruthNotes"], tuple[Path, str]]:
        """Have Ray take it to where its clients are: what is kept is on disk."""
        return TruthNotes, (self.root, self.prefix)

    def __call__(
        self, message: Message, context: Context, call_next: Callable[[Message, Context], Message]
    ) -> Message:
        """Have ``note`` know whose message is answered, and of which round."""
        now = self._book.now
        inside, idle = getattr(now, "inside", False), getattr(now, "idle", False)
        if inside and not (idle and self._trains(message)):
            return call_next(message, context)  # a mod of the app, and of its function as well
        now.inside = True
        try:
            self._begin(message, context)
            return call_next(message, context)
        finally:  # as it was: within a mod that waits for messages of other types
            now.inside, now.place, now.idle = inside, None, idle

    def note(self, texts: Sequence[str], labels: Sequence[int] | None = None) -> None:
        """Note what the client trains on in the round that is on.

        Args:
            texts: as they are given to the tokenizer.
            labels: one a text, in classification.
        """
        try:
            self._note(texts, labels)
        except Exception as error:
            logger.warning("no truth is noted: %s", fault(error))

    def _begin(self, message: Message, context: Context) -> None:
        now = self._book.now
        try:
            now.idle = not self._trains(message)
            if now.idle:
                return
            told = told_round(message.content, message.metadata.group_id)
            counted = self._book.next_round(context, self.root) if told is None else told
            now.place = context.node_id, counted
        except Exception as error:
            logger.warning("no truth is noted: %s", fault(error))

    def _trains(self, message: Message) -> bool:
        return bool(message.metadata.message_type.startswith(self.prefix))

    def _note(self, texts: Sequence[str], labels: Sequence[int] | None) -> None:
        if getattr(self._book.now, "idle", False):
            return
        place = getattr(self._book.now, "place", None)
        if place is None:
            raise RuntimeError("note() belongs into a function that has this object as its mod")
        if isinstance(texts, str):
            raise TypeError("wanted a list of texts, got one text")
        if labels is not None and len(labels) != len(texts):
            raise ValueError(f"wanted a label for each of {len(texts)} texts, got {len(labels)}")
        numbers = None if labels is None else [_whole(label) for label in labels]
        node, round_ = place
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.root / f"node={node}.jsonl"
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        for row, text in enumerate(texts):
            told = {} if numbers is None else {"label": numbers[row]}
            append_line(path, {"node": node, "round": round_, "text": str(text), **told})


def _whole(label: object) -> int:
    """Return a label as a number, whatever library's it is; what it says is no word for a log."""
    try:
        return int(label)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        raise ValueError("wanted whole numbers as labels") from None
