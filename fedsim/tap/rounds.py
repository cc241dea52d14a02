"""Which round a message is of, told or counted."""

from collections.abc import Sequence

from flwr.app import Message, RecordDict

from fedsim.tap.keys import told_round


class RoundCount:
    """Counts rounds where no message says them.

    Flower's strategies send a round at once, its legacy API one message at a time, from threads:
    so a message that comes alone is of the round that is on, until a node's turn comes again.
    """

    def __init__(self) -> None:
        self._count = 0
        self._asked: set[int] | None = None  # so far in a round of single messages

    def of(self, messages: Sequence[Message], contents: Sequence[RecordDict]) -> list[int]:
        """Return the round of each of ``messages``, which are sent together."""
        told = [
            told_round(content, message.metadata.group_id)
            for message, content in zip(messages, contents, strict=True)
        ]
        if None not in told:
            return [number for number in told if number is not None]
        common = next((number for number in told if number is not None), None)
        if common is None:
            common = self._counted({message.metadata.dst_node_id for message in messages})
        return [common if number is None else number for number in told]

    def _counted(self, nodes: set[int]) -> int:
        if len(nodes) > 1 or self._asked is None or nodes & self._asked:
            self._count += 1
            self._asked = nodes if len(nodes) == 1 else None
        else:
            self._asked |= nodes
        return self._count
