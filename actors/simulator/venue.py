"""What the server and a venue's protocol know of each other. A venue is pure: time is an argument."""

from collections.abc import Mapping
from typing import Protocol

from actors.simulator.house import House
from actors.simulator.session import Edit, Reply, Session


class Venue(Protocol):
    """A simulated venue: its words. What all venues have in common is in its ``house``."""

    house: House

    @property
    def edits(self) -> Mapping[str, Edit]:
        """Faults of a frame that take knowledge of its shape, by the fault's kind."""
        ...

    def open(self, session: Session, path: str, query: Mapping[str, str], now: int, /) -> Reply | None:
        """Greet a new session, or return how the handshake is refused."""
        ...

    def receive(self, session: Session, text: str, now: int, /) -> None:
        """Take a text frame of the client."""
        ...

    def hurried(self, session: Session, now: int, /) -> None:
        """Take note that the client says more than ``messages``, which was not heard."""
        ...

    def announce(self, session: Session, now: int, /) -> None:
        """Announce that the connection will be dropped, if the venue has words for it."""
        ...

    def rest(self, path: str, query: Mapping[str, str], now: int, /) -> Reply:
        """Answer a REST request."""
        ...

    def publish(self, now: int, /) -> None:
        """Send what is due by time: called every few milliseconds."""
        ...


def accept(venue: Venue, number: int, path: str, query: Mapping[str, str], now: int) -> Session | Reply:
    """Return a new session at a venue, or how the handshake is refused."""
    session = venue.house.admit(number, now)
    if isinstance(session, Reply):
        return session
    refusal = venue.open(session, path, query, now)
    if refusal is not None:
        venue.house.closed(session)
    return session if refusal is None else refusal


def ask(venue: Venue, path: str, query: Mapping[str, str], now: int, *, post: bool) -> Reply:
    """Return a venue's answer to a REST request, made by POST or by another method."""
    return Reply(405) if path in venue.house.posted and not post else venue.rest(path, query, now)


def hear(venue: Venue, session: Session, text: str | None, now: int) -> None:
    """Let a venue hear its client: a text frame, or (None) a ping or pong, which count as one."""
    if venue.house.hurries(session, now):
        venue.hurried(session, now)
    elif text is not None:
        venue.receive(session, text, now)
