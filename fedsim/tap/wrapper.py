"""One line for an app whose grid is out of reach: its ServerApp, or its strategy, tapped."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from fedsim.errors import BadInput
from fedsim.tap.capture import Capture
from fedsim.tap.exchange import Exchange, fault
from fedsim.tap.grid import TapGrid
from fedsim.tap.keys import (
    FIT_ARRAYS,
    FIT_CONFIG,
    FIT_COUNT,
    FIT_METRICS,
    FIT_REPLY,
    LEGACY_EXAMPLES,
)

logger = logging.getLogger("fedsim.tap")

A = TypeVar("A")
Main = Callable[[Grid, Context], None]
Lifespan = Callable[[Context], Iterator[None]]


def tapped(app: A, root: str | Path, *, model: Mapping[str, Any] | None = None) -> A:
    """Return ``app`` so that what it sends and gets is captured under ``root``.

    Args:
        app: a ServerApp, however it was made; a grid; a strategy, or one of the legacy API.
        root: see :class:`fedsim.tap.Capture`; for ``flwr run`` an absolute path, as such an app
            runs in a directory of Flower's.
        model: see :class:`fedsim.tap.Capture`.

    Raises:
        BadInput: ``app`` is nothing of the kind.
    """
    capture = Capture(root, model=model)
    made: Any = app
    if isinstance(app, ServerApp):
        made = TappedServerApp(app, capture)
    elif isinstance(app, Grid):
        made = TapGrid(app, [capture])
    elif isinstance(app, Strategy):
        tap_strategy(app, capture)
    elif callable(getattr(app, "configure_fit", None)) and hasattr(app, "aggregate_fit"):
        tap_legacy(app, capture)
    else:
        kind = type(app).__name__
        raise BadInput(f"tapped: wanted a ServerApp, a grid or a strategy, got {kind}")
    return cast(A, made)


def tap_strategy(strategy: Any, capture: Capture) -> None:
    """Have a strategy start on a tapped grid; the object stays what it is."""
    begin = strategy.start

    def start(grid: Grid, *args: Any, **kwargs: Any) -> Any:
        return begin(TapGrid(grid, [capture]), *args, **kwargs)

    strategy.start = start


class TappedServerApp(ServerApp):
    """A ServerApp that runs another one on a tapped grid."""

    def __init__(self, inner: ServerApp, capture: Capture) -> None:
        super().__init__()
        self.inner = inner
        self.capture = capture

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run the app inside."""
        self.inner(grid=TapGrid(grid, [self.capture]), context=context)

    def main(self) -> Callable[[Main], Main]:
        """Register the main function with the app inside."""
        return self.inner.main()

    def lifespan(self) -> Callable[[Lifespan], Lifespan]:
        """Register the lifespan with the app inside."""
        return self.inner.lifespan()


def tap_legacy(strategy: Any, capture: Capture) -> None:
    """Have a legacy strategy's rounds captured: what it hands out and what it is handed.

    The object stays what it is, for its class and its attributes may be asked for.
    """
    configure, aggregate = strategy.configure_fit, strategy.aggregate_fit
    sent: dict[str, RecordDict] = {}  # by client, this round's
    lock = threading.Lock()

    def guarded(work: Callable[[], None]) -> None:
        try:
            with lock:
                work()
        except Exception as error:
            logger.warning("a fault in looking, the training goes on: %s", fault(error))

    def configure_fit(*args: Any, **kwargs: Any) -> Any:
        asked = configure(*args, **kwargs)

        def note() -> None:
            sent.clear()
            sent.update({proxy.cid: _sent(ins) for proxy, ins in asked})

        guarded(note)
        return asked

    def aggregate_fit(*args: Any, **kwargs: Any) -> Any:
        def show() -> None:
            round_, results = _called(args, kwargs)
            capture(
                [
                    Exchange(
                        round=round_,
                        node_id=_node(proxy.cid),
                        client=None,
                        sent=sent[proxy.cid],
                        received=_received(result),
                    )
                    for proxy, result in results
                    if proxy.cid in sent
                ]
            )

        guarded(show)
        return aggregate(*args, **kwargs)

    strategy.configure_fit, strategy.aggregate_fit = configure_fit, aggregate_fit


def _called(args: Any, kwargs: Any) -> tuple[int, Any]:
    """Return round and results of a call of ``aggregate_fit(server_round, results, failures)``."""
    named = dict(zip(("server_round", "results"), args, strict=False)) | kwargs
    return named["server_round"], named["results"]


def _node(cid: str) -> int:
    """Return a number for a client's id: itself, or one that stands for its letters."""
    return int(cid) if cid.isdecimal() else int.from_bytes(cid.encode()[-16:], "big")


def _arrays(parameters: Any) -> ArrayRecord:
    return ArrayRecord(
        {
            str(place): Array("", (), parameters.tensor_type, data)
            for place, data in enumerate(parameters.tensors)
        }
    )


def _sent(ins: Any) -> RecordDict:
    """Return a legacy FitIns as the message that Flower makes of it."""
    return RecordDict({FIT_ARRAYS: _arrays(ins.parameters), FIT_CONFIG: ConfigRecord(ins.config)})


def _received(result: Any) -> RecordDict:
    """Return a legacy FitRes as the message that Flower makes of it."""
    count = MetricRecord({LEGACY_EXAMPLES: result.num_examples})
    return RecordDict(
        {
            FIT_REPLY: _arrays(result.parameters),
            FIT_COUNT: count,
            FIT_METRICS: ConfigRecord(result.metrics),
        }
    )
