"""Subscriptions of the native protocol, and the groups in which they are told the same.

A subscription is in one of these states::

    starting   waits for its turn, or reads what it missed (``replay``)
    live       is told every event it wants, and its states at its interval where it has a view
    behind     its client left too much unread: is told nothing until that is read, and then what it was
    ended      is told nothing any more

Live subscriptions with the same wishes and the same number form a group: one frame for all of them.
"""

from collections.abc import Iterator
from typing import Final, Literal

from actors.broadcaster.peers import Peer, header
from actors.dialects import native
from actors.dialects.native import Choice, Selector, StreamName, Topic, View
from actors.streams.keys import Cursor, Partition

_KEPT: Final = native.STATES - {"book"}
Place = tuple[Partition, StreamName]  # a stream of a partition


def name(place: Place) -> str:
    """Return the place as clients know it: ``binance.0/events``."""
    return f"{place[0]}/{place[1]}"


class Matches(dict[bytes, bool]):
    """The start of a line (see ``native.topic``) -> whether the event is wanted; learned once."""

    def __init__(self, selector: Selector, stream: StreamName) -> None:
        self._selector = selector
        self._stream: StreamName = stream

    def __missing__(self, start: bytes) -> bool:
        try:
            topic = native.topic(start)
        except native.NOT_A_TOPIC:
            return False  # no event: whoever reads the stream live counts it
        passes = self[start] = self._selector.passes(self._stream, topic)
        return passes


class Group:
    """Live subscriptions that want the same, and what they are to be told at the next flush.

    Attributes:
        selector: What they want.
        streams: Where that is.
        view: How they want their states thinned out; None: every change.
        head: How their messages begin.
        passed: What they are told as it comes.
        thinned: What is thinned out, None without a view.
        behind: How much the group had been told when a subscription of it fell behind.
        told: Events that it has been told, ever.
        changed: States to tell when the view is due.
        due_at: When that is at the earliest, loop time.
        armed: Somebody will tell them.
    """

    __slots__ = (
        "armed", "behind", "changed", "due_at", "frames", "head", "passed", "selector", "streams", "subs",
        "thinned", "told", "view",
    )  # fmt: skip

    def __init__(self, selector: Selector, view: View | None, head: bytes) -> None:
        self.selector = selector
        self.view = view
        self.head = head
        self.passed, self.thinned = (selector, None) if view is None else selector.split()
        self.streams = selector.streams
        self.subs: dict[Subscription, None] = {}
        self.behind: dict[Subscription, int] = {}
        self.frames: list[bytes] = []
        self.told = 0
        self.changed: dict[tuple[Place, bytes], None] = {}
        self.due_at = 0.0
        self.armed = False


class Subscription:
    """One subscription of one connection."""

    __slots__ = ("at", "choice", "group", "head", "peer", "places", "slow", "state")

    def __init__(self, peer: Peer, choice: Choice, places: list[Place]) -> None:
        self.peer = peer
        self.choice = choice
        self.places = places
        self.head = native.head(choice.request.id)
        self.slow = choice.request.slow
        self.state: Literal["starting", "live", "behind", "ended"] = "starting"
        self.group: Group | None = None
        self.at: dict[Place, Cursor] = {}  # up to where it had been told when it fell behind

    @property
    def id(self) -> int:
        """Its number on its connection."""
        return self.choice.request.id

    @property
    def snapshot(self) -> bool:
        """Whether it is told what stands, to begin with and where events were not sent."""
        return self.choice.request.snapshot or self.view is not None

    @property
    def view(self) -> View | None:
        """How its states are thinned out."""
        return self.choice.request.view


def framed(head: bytes, tail: bytes) -> bytes:
    """Return the frame of a message in two pieces."""
    return header(len(head) + len(tail)) + head + tail


class Target:
    """Who wants the events of one topic: by the head of their messages, and those that thin them out."""

    __slots__ = ("groups", "kept", "thinned", "topic")

    def __init__(self, topic: Topic, stream: StreamName) -> None:
        self.topic = topic
        self.groups: dict[bytes, list[Group]] = {}
        self.thinned: list[Group] = []
        # A state other than a book: the newest is kept for those who come.
        self.kept = topic.kind in _KEPT and topic.kind in native.OF_STREAM[stream]


class Targets(dict[bytes, Target]):
    """The start of a line -> who wants it."""

    def __init__(self, stream: StreamName, groups: "Groups") -> None:
        self._stream: StreamName = stream
        self._groups = groups

    def __missing__(self, start: bytes) -> Target:
        target = Target(native.topic(start), self._stream)
        for group in self._groups:
            self._aim(target, group)
        self[start] = target
        return target

    def _aim(self, target: Target, group: Group) -> None:
        if self._stream not in group.streams:
            return
        if group.passed.passes(self._stream, target.topic):
            target.groups.setdefault(group.head, []).append(group)
        elif group.thinned is not None and group.thinned.passes(self._stream, target.topic):
            target.thinned.append(group)

    def add(self, group: Group) -> None:
        """Aim at a new group too."""
        for target in self.values():
            self._aim(target, group)

    def remove(self, group: Group) -> None:
        """Aim at a group no more."""
        for target in self.values():
            if group in target.thinned:
                target.thinned.remove(group)
            of_head = target.groups.get(group.head, [])
            if group in of_head:
                of_head.remove(group)
                if not of_head:
                    del target.groups[group.head]


class Groups:
    """All groups; ``targets`` finds those that want a line."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Selector, View | None, bytes], Group] = {}
        self.targets = {stream: Targets(stream, self) for stream in native.OF_STREAM}

    def __iter__(self) -> Iterator[Group]:
        return iter([*self._groups.values()])

    def join(self, sub: Subscription) -> None:
        """Make a subscription live."""
        key = (sub.choice.selector, sub.view, sub.head)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(*key)
            for targets in self.targets.values():
                targets.add(group)
        group.behind.pop(sub, None)
        group.subs[sub] = None
        sub.group = group
        sub.state = "live"

    def fall_behind(self, sub: Subscription) -> None:
        """Tell a live subscription nothing for now, and count what it would have been told."""
        if sub.group is not None:
            del sub.group.subs[sub]
            sub.group.behind[sub] = sub.group.told
        sub.state = "behind"

    def missed(self, sub: Subscription) -> int:
        """Return how many events a subscription has missed since it fell behind."""
        return 0 if sub.group is None else sub.group.told - sub.group.behind.get(sub, sub.group.told)

    def leave(self, sub: Subscription) -> None:
        """End a subscription."""
        sub.state = "ended"
        group, sub.group = sub.group, None
        if group is None:
            return
        group.subs.pop(sub, None)
        group.behind.pop(sub, None)
        if not group.subs and not group.behind:
            del self._groups[group.selector, group.view, group.head]
            for targets in self.targets.values():
                targets.remove(group)
