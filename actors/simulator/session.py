"""What a server and its clients exchange: answers, sessions, topics, and how often what may happen."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from actors.model.events import SECOND, Channel

Form = tuple[int, ...]  # how a session wants its data; what it means is the venue's affair
Edit = Callable[[bytes], bytes]


class Reply(msgspec.Struct, frozen=True):
    """An HTTP answer. ``delay_s``: hold it back so long."""

    status: int
    body: bytes = b""
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

    def mutes(self, symbol: str | None) -> bool:
        """Tell whether nothing at all of a symbol comes through; None: of none whatever."""
        ...

    @property
    def spent(self) -> bool:
        """True when it has done what it was told."""
        ...


class Rate:
    """Counts what happens within a sliding time, up to what is allowed."""

    __slots__ = ("_stamps",)

    def __init__(self) -> None:
        self._stamps: deque[int] = deque()

    def wait(self, now: int, most: float, within_s: float) -> int:
        """Count one more and return 0, or how many ns are left until it is allowed."""
        stamps = self._stamps
        within = int(within_s * SECOND)
        while stamps and stamps[0] <= now - within:
            stamps.popleft()
        if len(stamps) >= most:
            return stamps[0] + within - now if stamps else within
        stamps.append(now)
        return 0

    @property
    def counted(self) -> int:
        """How many were counted within the time, as of the last ``wait``."""
        return len(self._stamps)


class Every:
    """A timer at whole multiples of its interval."""

    __slots__ = ("_at", "_interval")

    def __init__(self, interval: int, now: int) -> None:
        """Take the interval in ns; the first time is at once."""
        self._interval = interval
        self._at = now

    def due(self, now: int) -> bool:
        """Tell whether it is time, once an interval."""
        if now < self._at:
            return False
        self._at = now - now % self._interval + self._interval
        return True


class Session:
    """One WebSocket connection as its venue sees it.

    Attributes:
        number: Counts the server's connections from 1.
        opened: ns.
        out: Payloads to send, in order; the server empties it.
        close: Set by the venue: the code and reason to close with once ``out`` is sent.
        wounds: Faults in its frames; while there are any, data goes through ``send``.
        form: In which form it wants its data; set before it joins a topic.
        topics: What the client asked for, in the venue's words; None: acknowledged, and will be silent.
    """

    __slots__ = ("close", "form", "number", "opened", "out", "rate", "topics", "wounds")

    def __init__(self, number: int, opened: int) -> None:
        self.number = number
        self.opened = opened
        self.out: list[bytes] = []
        self.close: tuple[int, str] | None = None
        self.wounds: list[Wound] = []
        self.rate = Rate()
        self.form: Form = ()
        self.topics: dict[str, Topic | None] = {}

    def send(self, channel: Channel, symbol: str, payload: bytes) -> None:
        """Send one data frame past the session's wounds."""
        frames = [payload]
        for wound in self.wounds:
            if wound.matches(channel, symbol):
                frames = [frame for each in frames for frame in wound.apply(each)]
        self.out.extend(frames)
        self.wounds = [wound for wound in self.wounds if not wound.spent]

    def beat(self, payload: bytes, symbol: str | None = None) -> None:
        """Send a frame that is no data, such as a heartbeat: faults spare it, unless all is silent.

        ``symbol``: what it is about, where the venue's heart beats for each: then all of that.
        """
        if not any(wound.mutes(symbol) for wound in self.wounds):
            self.out.append(payload)

    def join(self, name: str, topic: "Topic | None") -> None:
        """Ask for a topic; None is asked for too, and never says anything."""
        if self.topics.get(name) is not None:
            return
        self.topics[name] = topic
        if topic is not None:
            topic.add(self)

    def leave(self, name: str) -> bool:
        """Ask for a topic no more; False if it was not asked for."""
        if name not in self.topics:
            return False
        topic = self.topics.pop(name)
        if topic is not None:
            topic.remove(self)
        return True


class Topic:
    """One thing to listen to, and who listens: each payload is made once for each form."""

    __slots__ = ("channel", "groups", "name", "symbol")

    def __init__(self, name: str, channel: Channel, symbol: str) -> None:
        self.name = name
        self.channel: Channel = channel
        self.symbol = symbol
        self.groups: dict[Form, list[Session]] = {}

    def add(self, session: Session) -> None:
        """Let a session listen."""
        self.groups.setdefault(session.form, []).append(session)

    def remove(self, session: Session) -> None:
        """Let a session listen no more."""
        group = self.groups[session.form]
        group.remove(session)
        if not group:
            del self.groups[session.form]

    def send(self, encode: Callable[[Form], bytes]) -> None:
        """Send one payload to all who listen, each in its form."""
        for form, sessions in self.groups.items():
            self.deliver(sessions, encode(form))

    def tell(self, frame: bytes) -> None:
        """Send one frame to all who listen, whatever their form."""
        for sessions in self.groups.values():
            self.deliver(sessions, frame)

    def deliver(self, sessions: Iterable[Session], frame: bytes) -> None:
        """Hand a finished frame to sessions."""
        for session in sessions:
            if session.wounds:
                session.send(self.channel, self.symbol, frame)
            else:
                session.out.append(frame)
