"""The one table of metrics, and the small object that actors count with.

Labels come from closed sets (``role venue channel kind partition reason``), never a symbol. A name
that is not in the table, or a label that its row does not name, is a programming error and raises.
"""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Final, Literal, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from actors.dialects.native import Code
from actors.model.events import Cause, Channel

Kind = Literal["counter", "gauge", "histogram"]


class Row(NamedTuple):
    """One metric: its kind, labels and what it says."""

    kind: Kind
    labels: tuple[str, ...]
    help: str
    loss: bool = False  # a counter of loss: must have a panel


_SECONDS: Final = (
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0,
)  # fmt: skip

TABLE: Final[dict[str, Row]] = {
    # connector
    "tapeline_frames_total": Row("counter", ("venue",), "Frames received from the venue."),
    "tapeline_frame_bytes_total": Row("counter", ("venue",), "Bytes of frames received from the venue."),
    "tapeline_connections": Row("gauge", ("venue",), "WebSocket connections open to the venue."),
    "tapeline_reconnects_total": Row("counter", ("venue", "reason"), "Connections closed or failed."),
    "tapeline_rest_requests_total": Row("counter", ("venue", "reason"), "REST requests by operation."),
    "tapeline_rest_failures_total": Row("counter", ("venue", "reason"), "REST requests that failed."),
    "tapeline_overflow_frames_total": Row(
        "counter", ("venue",), "Frames dropped while Redis was away, named by a gap.", loss=True
    ),
    "tapeline_venue_up": Row("gauge", ("venue",), "1 while at least one connection to the venue is open."),
    # stages
    "tapeline_events_total": Row("counter", ("role", "partition", "kind"), "Events written, by kind."),
    "tapeline_unparseable_total": Row(
        "counter", ("venue", "reason"), "Frames and instruments that could not be decoded.", loss=True
    ),
    "tapeline_ignored_total": Row("counter", ("venue", "reason"), "Frames that rightly give no event."),
    "tapeline_duplicates_total": Row("counter", ("venue", "reason"), "Trades dropped as seen before."),
    "tapeline_poison_total": Row(
        "counter", ("role", "partition"), "Events skipped because folding them raised.", loss=True
    ),
    "tapeline_gaps_total": Row("counter", ("venue", "channel", "reason"), "Gaps found, by cause.", loss=True),
    "tapeline_resyncs_total": Row("counter", ("venue", "reason"), "Books that had to start again."),
    "tapeline_checksum_failures_total": Row(
        "counter", ("venue",), "Books whose checksum differed.", loss=True
    ),
    "tapeline_book_audits_total": Row(
        "counter", ("venue", "reason"), "Answers of venues that books were compared with, by result."
    ),
    "tapeline_books": Row("gauge", ("partition", "state"), "Books by state."),
    "tapeline_subscriptions": Row("gauge", ("partition", "channel", "state"), "Subscriptions by state."),
    # streams
    "tapeline_commits_total": Row("counter", ("role", "partition"), "Commits accepted."),
    "tapeline_commit_refusals_total": Row(
        "counter", ("role", "partition", "reason"), "Commits and appends refused: FENCED, STALE, DUP."
    ),
    "tapeline_commit_seconds": Row("histogram", ("role",), "Round trip of one commit."),
    "tapeline_hop_seconds": Row("histogram", ("role",), "Receive of an event to its commit by this role."),
    "tapeline_lag_events": Row("gauge", ("role", "partition"), "Events between the cursor and the head."),
    "tapeline_lag_seconds": Row("gauge", ("role", "partition"), "Age of the newest folded event."),
    "tapeline_lease_changes_total": Row("counter", ("role", "partition", "reason"), "Leases won or lost."),
    "tapeline_rollbacks_total": Row(
        "counter", ("role", "partition"), "Acknowledged writes taken back by a failover.", loss=True
    ),
    "tapeline_trimmed_unread_total": Row(
        "counter", ("role", "partition"), "Events trimmed before this reader read them.", loss=True
    ),
    "tapeline_checkpoint_seconds": Row("histogram", ("role",), "Time to write one checkpoint."),
    "tapeline_redis_reconnects_total": Row("counter", ("role",), "Connections to Redis lost."),
    "tapeline_redis_memory_bytes": Row("gauge", (), "Memory Redis uses (used_memory)."),
    # broadcaster
    "tapeline_clients": Row("gauge", ("dialect",), "WebSocket clients connected."),
    "tapeline_client_frames_total": Row("counter", ("dialect",), "Frames handed to clients."),
    "tapeline_client_buffer_bytes": Row("gauge", (), "Bytes waiting in all client sockets."),
    "tapeline_clients_refused_total": Row("counter", ("reason",), "Clients refused or closed by us."),
    "tapeline_subscribers": Row("gauge", ("state",), "Subscriptions of the native protocol, by state."),
    "tapeline_request_errors_total": Row("counter", ("reason",), "Clients' requests refused, by code."),
    "tapeline_replayed_events_total": Row("counter", (), "Events read back for clients that resumed."),
    "tapeline_skipped_total": Row(
        "counter", ("reason",), "Events not delivered because a client was slow.", loss=True
    ),
    "tapeline_delivery_seconds": Row("histogram", (), "Receive of an event to its delivery."),
    "tapeline_published_total": Row("counter", ("kind",), "Pub/sub messages published."),
    # forwarder
    "tapeline_forward_sent_total": Row("counter", ("kind",), "Messages given to a master, repeats included."),
    "tapeline_forward_acked_total": Row("counter", ("kind",), "Messages that a master has acknowledged."),
    "tapeline_forward_resent_total": Row("counter", (), "Messages given to a master once more."),
    "tapeline_forward_lost_total": Row(
        "counter",
        ("reason",),
        "Messages to a v1 master whose socket broke before it showed that it had them: at most so many are "
        "lost.",
        loss=True,
    ),
    "tapeline_forward_skipped_total": Row(
        "counter", ("reason",), "Events that the master's dialect has no word for."
    ),
    "tapeline_forward_unacked_seconds": Row(
        "gauge", ("partition",), "Age of the oldest message that the master has not acknowledged."
    ),
    "tapeline_forward_connections": Row("gauge", ("state",), "Sockets to the master by state."),
    "tapeline_forward_reconnects_total": Row(
        "counter", ("reason",), "Sockets to the master closed or failed."
    ),
    # master
    "tapeline_master_connections": Row("gauge", ("dialect",), "Collectors connected to the master."),
    "tapeline_master_messages_total": Row("counter", ("kind",), "Messages taken by the master."),
    "tapeline_master_duplicates_total": Row("counter", (), "Messages the master had already."),
    "tapeline_master_asked_back_total": Row(
        "counter", (), "Batches that went on from beyond what the master holds; it asked for the rest."
    ),
    "tapeline_master_rejected_total": Row(
        "counter", ("reason",), "Messages of v1 collectors that could not be kept.", loss=True
    ),
    "tapeline_master_refused_total": Row(
        "counter", ("reason",), "Collectors refused or closed by the master."
    ),
    "tapeline_master_throttled_total": Row("counter", (), "Times a collector was read more slowly."),
    "tapeline_master_bytes_total": Row("counter", (), "Bytes the master has written to its files."),
    "tapeline_master_cut_bytes_total": Row(
        "counter", (), "Bytes cut off its files at the start: begun, never acknowledged."
    ),
    "tapeline_master_commit_seconds": Row("histogram", (), "Time to write, and to sync, what came in."),
    "tapeline_master_write_failures_total": Row("counter", (), "Times a file could not be written."),
    # process
    "tapeline_restarts_total": Row("counter", ("role",), "Times the supervisor started this actor again."),
    "tapeline_loop_lag_seconds": Row("gauge", ("role",), "How late the event loop ran its last timer."),
}

_STAGES: Final = ("normalizer", "bookbuilder", "analytics")
_READERS: Final = (*_STAGES, "broadcaster", "forwarder")


def _of(role: str, *values: str) -> dict[str, tuple[str, ...]]:
    return {role: values or ("",)}


def _every(roles: Iterable[str], *values: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(roles, values or ("",))


# What may not happen for long, by the role that measures it: the values of its last labels, apart by ``/``.
# It stands at zero from the start, as Prometheus sees no increase in a series that begins at one.
AT_ZERO: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "tapeline_reconnects_total": _of(
        "connector", "lost", "failed", "closed", "rejected", "try_later", "too_big", "overflow", "shutdown",
        "replaced", "deaf", "no_instruments", "unreachable", "timeout", "handshake", "refused",
    ),
    "tapeline_rest_failures_total": _of("connector", "unreachable", "4xx", "5xx", "429", "418", "403"),
    "tapeline_overflow_frames_total": _of("connector"),
    "tapeline_unparseable_total": {
        "connector": ("instrument",),
        "normalizer": ("malformed", "schema", "value", "oversized", "protocol"),
    },
    "tapeline_ignored_total": _of("normalizer", "answer", "refusal", "closed_connection"),
    "tapeline_duplicates_total": _of("normalizer", "trade", "page", "venue_reset"),
    "tapeline_poison_total": _every(_STAGES),
    "tapeline_gaps_total": {
        "normalizer": (
            "all/retention", "all/rollback",
            *("/".join(pair) for pair in product(get_args(Channel), ("disconnect", "sequence"))),
        ),
        "bookbuilder": tuple(f"book/{cause}" for cause in get_args(Cause)),
        "analytics": ("trade/retention", "trade/rollback"),
        "broadcaster": ("book/broken_chain",),
    },
    "tapeline_resyncs_total": _of("bookbuilder", "disconnect", "sequence", "checksum", "crossed", "depth"),
    "tapeline_checksum_failures_total": _of("bookbuilder"),
    "tapeline_book_audits_total": _of("bookbuilder", "passed", "differs", "unclear"),
    "tapeline_commit_refusals_total": _every(_STAGES, "FENCED", "STALE", "DUP"),
    "tapeline_rollbacks_total": _every(_READERS),
    "tapeline_trimmed_unread_total": _every(_READERS),
    "tapeline_checkpoint_seconds": _every(_STAGES),
    "tapeline_redis_reconnects_total": _every(("connector", *_READERS)),
    "tapeline_clients": _of("broadcaster", "barter", "native"),
    "tapeline_client_frames_total": _of("broadcaster", "barter", "native"),
    "tapeline_client_buffer_bytes": _of("broadcaster"),
    "tapeline_clients_refused_total": _of(
        "broadcaster", "sockets", "handshake", "origin", "binary", "rate", "slow", "stalled"
    ),
    "tapeline_request_errors_total": _of("broadcaster", *get_args(Code)),
    "tapeline_replayed_events_total": _of("broadcaster"),
    "tapeline_skipped_total": _of("broadcaster", "slow", "pubsub", "untranslatable"),
    "tapeline_delivery_seconds": _of("broadcaster"),
    "tapeline_published_total": _of("broadcaster", "trade", "book", "l1", "ticker"),
    "tapeline_forward_sent_total": _of("forwarder", "trade", "book"),
    "tapeline_forward_acked_total": _of("forwarder", "trade", "book"),
    "tapeline_forward_resent_total": _of("forwarder"),
    "tapeline_forward_lost_total": _of("forwarder", "socket", "restart"),
    "tapeline_forward_skipped_total": _of("forwarder", "dialect", "unreadable"),
    "tapeline_forward_reconnects_total": _of(
        "forwarder", "refused", "closed", "http", "timeout", "unreachable", "handshake", "dropped"
    ),
    "tapeline_master_connections": _of("master", "acked", "ftsobest"),
    "tapeline_master_messages_total": _of("master", "trade", "book"),
    "tapeline_master_duplicates_total": _of("master"),
    "tapeline_master_asked_back_total": _of("master"),
    "tapeline_master_rejected_total": _of("master", "message", "full"),
    "tapeline_master_refused_total": _of("master", "login", "key", "protocol", "binary"),
    "tapeline_master_throttled_total": _of("master"),
    "tapeline_master_bytes_total": _of("master"),
    "tapeline_master_cut_bytes_total": _of("master"),
    "tapeline_master_commit_seconds": _of("master"),
    "tapeline_master_write_failures_total": _of("master"),
}  # fmt: skip
_PLACES: Final = frozenset({"role", "partition", "venue"})


class Metrics:
    """Counts, gauges and histograms by name; children are bound once and kept."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self._families: dict[str, Counter | Gauge | Histogram] = {}
        self._children: dict[tuple[str, tuple[str, ...]], Counter | Gauge | Histogram] = {}

    def _child(self, name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        key = (name, tuple(labels.values()))
        child = self._children.get(key)
        if child is None:
            row = TABLE[name]
            if tuple(labels) != row.labels:
                raise ValueError(f"{name} has the labels {row.labels}, in this order, not {tuple(labels)}")
            family = self._families.get(name) or self._declare(name, row)
            child = family.labels(*key[1]) if row.labels else family
            self._children[key] = child
        return child

    def _declare(self, name: str, row: Row) -> Counter | Gauge | Histogram:
        family: Counter | Gauge | Histogram
        match row.kind:
            case "counter":
                family = Counter(name, row.help, row.labels, registry=self.registry)
            case "gauge":
                family = Gauge(name, row.help, row.labels, registry=self.registry)
            case "histogram":
                family = Histogram(name, row.help, row.labels, registry=self.registry, buckets=_SECONDS)
        self._families[name] = family
        return family

    def stand(self, role: str, **places: str) -> None:
        """Show what ``role`` may count at zero, before it happens: as far as ``places`` say where.

        Args:
            role: Who counts.
            places: ``venue`` and ``partition``, where they are known already.
        """
        known = {"role": role, **places}
        for name, by_role in AT_ZERO.items():
            labels = TABLE[name].labels
            if (_PLACES & {*labels}) <= known.keys():
                others = [label for label in labels if label not in _PLACES]
                for values in by_role.get(role, ()):
                    own = known | dict(zip(others, filter(None, values.split("/")), strict=True))
                    self._child(name, {label: own[label] for label in labels})

    def count(self, name: str, n: float = 1, /, **labels: str) -> None:
        """Add ``n`` to a counter. Labels in the order of the table."""
        child = self._child(name, labels)
        assert isinstance(child, Counter)  # noqa: S101
        child.inc(n)

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        child = self._child(name, labels)
        assert isinstance(child, Gauge)  # noqa: S101
        child.set(value)

    def observe(self, name: str, seconds: float, /, **labels: str) -> None:
        """Add one observation, in seconds, to a histogram."""
        self.observer(name, **labels)(seconds)

    def observer(self, name: str, /, **labels: str) -> Callable[[float], None]:
        """Return what adds an observation, in seconds, to a histogram: for those made at every commit."""
        child = self._child(name, labels)
        assert isinstance(child, Histogram)  # noqa: S101
        return child.observe
