"""Every Redis key and pub/sub channel is named here, and nowhere else.

All keys of a partition carry one hash tag, ``{<venue>.<shard>}``: they share a slot of Redis Cluster.
"""

from typing import Final, Literal, NamedTuple

from actors.config import Settings

Stream = Literal["raw", "events", "books", "flow", "control", "dead"]
LEGS: Final = ("a", "b")  # of a connector: with ``redundancy = 1`` the first alone
SERVER_IDS: Final = frozenset({"control", "dead"})  # numbered by the server; the others are dense


class Partition(NamedTuple):
    """A shard of one venue's instruments; written ``binance.0``."""

    venue: str
    shard: int

    def __str__(self) -> str:
        return f"{self.venue}.{self.shard}"

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Return the partition written as ``<venue>.<shard>``.

        Raises:
            ValueError: It is not of this form.
        """
        venue, _, number = text.rpartition(".")
        if not venue:
            raise ValueError(f"a partition is written <venue>.<shard>, not {text!r}")
        return cls(venue, int(number))


def partitions(settings: Settings) -> list[Partition]:
    """Return the partitions of every enabled venue, in the order of the config."""
    return [
        Partition(name, shard)
        for name, venue in settings.venues.items()
        if venue.enabled
        for shard in range(venue.shards)
    ]


def legs(settings: Settings, venue: str) -> tuple[str, ...]:
    """Return the legs that carry ``venue``."""
    return LEGS[: settings.venues[venue].redundancy]


class Cursor(NamedTuple):
    """A place in a stream: event ``k`` (1 is the first), written under ``epoch``. (0, 0): before all.

    In ``control`` and ``dead``, whose ids are the server's: (milliseconds, sequence).
    """

    epoch: int
    k: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.k}"

    @classmethod
    def parse(cls, text: str | bytes) -> "Cursor":
        """Return the cursor written as ``<epoch>-<k>``.

        Raises:
            ValueError: It is not of this form.
        """
        epoch, _, k = (text if isinstance(text, str) else text.decode()).partition("-")
        return cls(int(epoch), int(k))


START: Final = Cursor(0, 0)


def literal(text: str) -> str:
    """Return the pattern, of SCAN, that ``text`` alone matches."""
    return "".join(f"\\{c}" if c in "*?[]\\^-" else c for c in text)


class Keys(NamedTuple):
    """Names under one pair of prefixes."""

    prefix: str = "tl"
    pubsub_prefix: str = "md"

    def _of(self, partition: Partition, name: str) -> str:
        return f"{self.prefix}:{{{partition}}}:{name}"

    def stream(self, partition: Partition, stream: Stream) -> str:
        """Stream of packed entries, id ``<epoch>-<k>`` (``control``, ``dead``: server ids)."""
        return self._of(partition, stream)

    def cursor(self, partition: Partition, role: str) -> str:
        """Hash of what a role has read and written.

        ``c:<stream>`` cursor in an input, ``i:<stream>`` last id of an output, ``b:<stream>`` bytes ever
        appended to it, ``t:<stream>`` trim notes, ``skip`` poisoned events, ``seen`` server ms,
        ``d:<stream>`` up to where a reader knows that what it delivered has arrived.
        """
        return self._of(partition, f"ck:{role}")

    def state(self, partition: Partition, role: str) -> str:
        """Hash: the checkpoint: ``c:<stream>`` its cursor, ``format``, ``blob``."""
        return self._of(partition, f"state:{role}")

    def writer(self, partition: Partition) -> str:
        """Hash of ``append.lua``.

        ``id`` (highest epoch, last ``k``) and ``bytes`` of ``raw``; ``batch:<leg>`` number of the leg's last
        batch, ``at:<leg>`` its id.
        """
        return self._of(partition, "w:raw")

    def lease(self, partition: Partition, role: str, leg: str | None = None) -> str:
        """Hash that never expires: owner, until, epoch."""
        return self._of(partition, f"lease:{role}" if leg is None else f"lease:{role}:{leg}")

    def any_lease(self) -> str:
        """Pattern, for SCAN, of every lease of every partition."""
        return f"{literal(self.prefix)}:{{*}}:lease:*"

    def latest(self, partition: Partition, kind: Literal["book", "top"], symbol: str) -> str:
        """String: the latest book (best 20) or L1 as JSON."""
        return self._of(partition, f"{kind}:{symbol}")

    def instruments(self, venue: str) -> str:
        """String: a venue's instrument list as JSON, for people and commands only."""
        return f"{self.prefix}:instruments:{venue}"

    def members(self, role: str) -> str:
        """Hash: instance -> JSON (host, pid, metrics, config, until)."""
        return f"{self.prefix}:members:{role}"

    def meta(self) -> str:
        """Hash: schema version, demo or live, shards per venue, id of the data."""
        return f"{self.prefix}:meta"

    def limit(self, venue: str, egress: str) -> str:
        """Hash: REST weight, connect and subscribe budgets of one address."""
        return f"{self.prefix}:limit:{venue}:{egress}"

    def channel(self, kind: str, venue: str, symbol: str) -> str:
        """Pub/sub channel of one kind of one symbol."""
        return f"{self.pubsub_prefix}.{kind}.{venue}.{symbol}"
