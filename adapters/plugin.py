"""The plug-in module: everything that a transport from another package may import from the gateway.

The names in `__all__` stay the same when their definitions move. Other packages should import nothing else from
`adapters` and `gateway`. `docs/transports.md` explains each name and shows a whole transport.
"""

from adapters.edge.limits import Seat
from adapters.edge.query import position_asked
from adapters.services import SERVICES, Services
from adapters.transports.lastmile import Line, hand_over
from adapters.transports.listening import KINDS, Kind, Topic, caller_of, subscribe, take_place, topic_of
from adapters.transports.wire import event
from gateway.errors import Code, GatewayError
from gateway.log.entry import Entry
from gateway.log.tail import Tail
from gateway.reading.frames import PORTION
from gateway.reading.subscription import Subscription
from gateway.telemetry.metrics import Connection
from gateway.telemetry.words import Closing

__all__ = [
    "KINDS",
    "PORTION",
    "SERVICES",
    "Closing",
    "Code",
    "Connection",
    "Entry",
    "GatewayError",
    "Kind",
    "Line",
    "Seat",
    "Services",
    "Subscription",
    "Tail",
    "Topic",
    "caller_of",
    "event",
    "hand_over",
    "position_asked",
    "subscribe",
    "take_place",
    "topic_of",
]
