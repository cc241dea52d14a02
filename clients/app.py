"""The Flower client app: it answers a broadcast with an update, and a failure with one line."""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.holdings import ClientSettings, Side, client_side
from clients.update import client_update
from fedsim.errors import BadInput, ClientFailure
from fedsim.wire import PARTITION, read_broadcast, sent_round, update_content, whoami_content


def build_client_app(
    settings: ClientSettings, side: Callable[[ClientSettings, int], Side] = client_side
) -> ClientApp:
    """Return the Flower app that every client of a run is an instance of."""
    app = ClientApp()

    @app.query()
    def whoami(message: Message, context: Context) -> Message:
        return Message(whoami_content(_client(context)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        round_ = sent_round(message.content)
        if round_ is None:
            raise BadInput("the server's message names no round")
        broadcast = read_broadcast(message.content, round_)
        client = _client(context)
        try:
            update = client_update(settings, client, broadcast, side(settings, client))
        except Exception as error:
            raise _told(error, round_, client) from None
        return Message(update_content(update), reply_to=message)

    return app


def _client(context: Context) -> int:
    return int(context.node_config[PARTITION])


def _told(error: Exception, round_: int, client: int) -> ClientFailure:
    """Return what the server is told of ``error``: one line without a figure of the data.

    A ClientFailure's message is such a line; of others the kind is told alone.
    """
    if isinstance(error, ClientFailure):
        return ClientFailure(str(error))
    where = f"audit/round={round_}/client={client}.json"
    return ClientFailure(f"{type(error).__name__} on the client; its {where} says more")
