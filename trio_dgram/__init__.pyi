# What type checkers see of __init__.py, which imports each name when it is first used.

from . import dtls as dtls
from . import lowlevel as lowlevel
from . import quic as quic
from . import sim as sim
from . import workers as workers
from ._codecs.families import SocketType as SocketType
from ._kernel.capabilities import Capabilities as Capabilities
from ._kernel.capabilities import capabilities as capabilities
from ._kernel.interfaces import Interface as Interface
from ._kernel.interfaces import interfaces as interfaces
from ._kernel.memberships import Membership as Membership
from ._nursery import DatagramNursery as DatagramNursery
from ._nursery import open_nursery as open_nursery
from ._nursery import open_socket as open_socket
from ._peers.channel import DatagramChannel as DatagramChannel
from ._peers.connection import open_connection as open_connection
from ._peers.exchange import Exchange as Exchange
from ._peers.exchange import open_exchange as open_exchange
from ._peers.limits import ListenerOptions as ListenerOptions
from ._peers.limits import PeerOptions as PeerOptions
from ._peers.listener import DatagramListener as DatagramListener
from ._peers.listener import open_listeners as open_listeners
from ._peers.retry import retry as retry
from ._peers.serving import serve as serve
from ._socket.buggify import buggify as buggify
from ._socket.config import SocketOptions as SocketOptions
from ._socket.datagram_socket import DatagramSocket as DatagramSocket
from ._socket.event_channel import ChannelOptions as ChannelOptions
from ._socket.event_channel import EventChannel as EventChannel
from ._socket.resolution import resolve as resolve
from ._socket.socket_group import SocketGroup as SocketGroup
from ._socket.trio_socket import as_trio_socket as as_trio_socket
from ._values.addresses import Address as Address
from ._values.addresses import ProxiedAddress as ProxiedAddress
from ._values.addresses import UnixAddress as UnixAddress
from ._values.datagrams import (
    Credentials as Credentials,
)
from ._values.datagrams import (
    Datagram as Datagram,
)
from ._values.datagrams import (
    PacketInfo as PacketInfo,
)
from ._values.datagrams import (
    ProxyHeader as ProxyHeader,
)
from ._values.errors import (
    AddressBlockedError as AddressBlockedError,
)
from ._values.errors import (
    AlreadyBoundError as AlreadyBoundError,
)
from ._values.errors import (
    AlreadyConnectedError as AlreadyConnectedError,
)
from ._values.errors import (
    AmplificationLimitError as AmplificationLimitError,
)
from ._values.errors import (
    DatagramError as DatagramError,
)
from ._values.errors import (
    NotBoundError as NotBoundError,
)
from ._values.errors import (
    NotConnectedError as NotConnectedError,
)
from ._values.errors import (
    PeerUnreachable as PeerUnreachable,
)
from ._values.errors import (
    ProxyHeaderError as ProxyHeaderError,
)
from ._values.errors import (
    SendManyError as SendManyError,
)
from ._values.errors import (
    SocketStateError as SocketStateError,
)
from ._values.events import (
    Closed as Closed,
)
from ._values.events import (
    Connected as Connected,
)
from ._values.events import (
    Event as Event,
)
from ._values.events import (
    Failure as Failure,
)
from ._values.events import (
    Listening as Listening,
)
from ._values.statistics import (
    ChannelStatistics as ChannelStatistics,
)
from ._values.statistics import (
    ExchangeStatistics as ExchangeStatistics,
)
from ._values.statistics import (
    ListenerStatistics as ListenerStatistics,
)
from ._values.statistics import (
    PeerStatistics as PeerStatistics,
)
from ._values.statistics import (
    SocketStatistics as SocketStatistics,
)
