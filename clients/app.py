"""The Flower client app: it answers a broadcast with an update, and a failure with one line."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.apart import MakeSide, limited_update
from clients.holdings import ClientSettings, client_side
from clients.update import client_update, told
from fedsim.errors import BadInput
from fedsim.linux import keep_memory_private
from fedsim.tap.keys import PARTITION, sent_round
from fedsim.wire import read_broadcast, update_content, whoami_content


def build_client_app(settings: ClientSettings, side: MakeSide = client_side) -> ClientApp:
    """Return the Flower app that every client of a run is an instance of."""
    app = ClientApp()

    @app.query()
    def whoami(message: Message, context: Context) -> Message:
        return Message(whoami_content(_client(context)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        keep_memory_private()  # an engine may have given it a process of its own
        round_ = sent_round(message.content)
        if round_ is None:
            raise BadInput("the server's message names no round")
        broadcast = read_broadcast(message.content, round_)
        client = _client(context)
        try:
            if settings.timeout:
                update = limited_update(settings, client, broadcast, side)
            else:
                update = client_update(settings, client, broadcast, side(settings, client))
        except KeyboardInterrupt:  # the user's
            raise
        except BaseException as error:  # an exit, too: it is the client's alone
            raise told(settings, client, round_, error) from None
        return Message(update_content(update), reply_to=message)

    return app


def _client(context: Context) -> int:
    return int(context.node_config[PARTITION])
