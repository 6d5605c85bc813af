"""What the server and a venue's protocol know of each other. A venue is pure: time is an argument."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from actors.model.events import Channel
from actors.simulator.book import Levels
from actors.simulator.market import Fixed


class Reply(msgspec.Struct, frozen=True):
    """An HTTP answer. ``delay_s``: hold it back so long."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    delay_s: float = 0.0


class Binary(bytes):
    """A payload that goes out as a binary frame; any other is text."""

    __slots__ = ()


class Wound(Protocol):
    """Something wrong with the frames of one session, see ``faults``."""

    id: int

    def matches(self, channel: Channel, symbol: str) -> bool:
        """Tell whether it is about such frames."""
        ...

    def apply(self, payload: bytes) -> list[bytes]:
        """Return what goes out instead."""
        ...

    @property
    def spent(self) -> bool:
        """True when it has done what it was told."""
        ...


class Session:
    """One WebSocket connection as its venue sees it.

    Attributes:
        number: Counts the server's connections from 1.
        opened: ns.
        out: Payloads to send, in order; the server empties it.
        close: Set by the venue: the code and reason to close with once ``out`` is sent.
        wounds: Faults in its frames; while there are any, data goes through ``send``.
    """

    __slots__ = ("close", "number", "opened", "out", "wounds")

    def __init__(self, number: int, opened: int) -> None:
        self.number = number
        self.opened = opened
        self.out: list[bytes] = []
        self.close: tuple[int, str] | None = None
        self.wounds: list[Wound] = []

    def send(self, channel: Channel, symbol: str, payload: bytes) -> None:
        """Send one data frame past the session's wounds."""
        frames = [payload]
        for wound in self.wounds:
            if wound.matches(channel, symbol):
                frames = [frame for each in frames for frame in wound.apply(each)]
        self.out.extend(frames)
        self.wounds = [wound for wound in self.wounds if not wound.spent]

    def subscribed(self) -> list[str]:
        """Return what the client asked for, in the venue's words."""
        return []


class Truth(NamedTuple):
    """What a venue knows of one of its instruments, for the control port."""

    oldest: int  # the first sequence that can be asked for
    newest: int
    first_trade: int
    next_trade: int


class TrueTrade(msgspec.Struct, frozen=True):
    """One trade of the tape; ``ts`` in ns."""

    id: str
    ts: int
    price: str
    size: str
    aggressor: str


class Venue(Protocol):
    """A simulated venue."""

    name: str
    limits: dict[str, float]  # what it enforces; the control port may change a value

    @property
    def edits(self) -> Mapping[str, Callable[[bytes], bytes]]:
        """Faults of a frame that take knowledge of its shape."""
        ...

    def accept(self, number: int, path: str, query: Mapping[str, str], now: int) -> Session | Reply:
        """Return a new session, or how the handshake is refused."""
        ...

    def receive(self, session: Session, text: str, now: int) -> None:
        """Take a text frame of the client."""
        ...

    def heartbeat(self, session: Session, now: int) -> None:
        """Take a ping or pong of the client, for the venue's limits."""
        ...

    def closed(self, session: Session) -> None:
        """Forget a session."""
        ...

    def announce(self, session: Session, now: int) -> None:
        """Announce that the connection will be dropped, if the venue has words for it."""
        ...

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a REST request."""
        ...

    def publish(self, now: int) -> None:
        """Send what is due by time: called every few milliseconds."""
        ...

    def truths(self) -> dict[str, Truth]:
        """Return what there is to be asked, by canonical symbol."""
        ...

    def book(self, symbol: str, sequence: int | None, most: int | None) -> tuple[int, Levels, Fixed, Fixed]:
        """Return a book as it was at a sequence (None: now), with how its prices and sizes are written.

        Raises:
            Forgotten: That sequence is not known, or not any more.
            KeyError: No such symbol.
        """
        ...

    def trades(self, symbol: str, first: int, last: int) -> Sequence[TrueTrade]:
        """Return trades of the tape by id, both ends included.

        Raises:
            KeyError: No such symbol.
        """
        ...
