"""Which round a message is of, told or counted."""

from collections.abc import Sequence

from flwr.app import Message, RecordDict

from fedsim.tap.exchange import same_arrays
from fedsim.tap.keys import told_round


class RoundCount:
    """Counts rounds where no message says them.

    Flower's strategies send a round at once, its legacy API one message at a time, from threads:
    so a message that comes alone is of the round that is on, until a node's turn comes again or
    other weights are sent.
    """

    def __init__(self) -> None:
        self._count = 0
        self._asked = set[int]()  # so far in a round of single messages,
        self._sent: RecordDict | None = None  # which all send this; None: it is of another kind

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
            common = self._counted([m.metadata.dst_node_id for m in messages], contents[0])
        return [common if number is None else number for number in told]

    def _counted(self, nodes: Sequence[int], content: RecordDict) -> int:
        alone = len(nodes) == 1
        again = not alone or nodes[0] in self._asked or self._sent is None
        if again or not same_arrays(content, self._sent or RecordDict()):
            self._count += 1
            self._asked, self._sent = set(), content if alone else None
        self._asked.update(nodes)
        return self._count
