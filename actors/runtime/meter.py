"""The stage loop's metrics."""

import time
from collections import Counter

import structlog

from actors.runtime.metrics import TABLE, Metrics
from actors.stages.fold import Output
from actors.streams.keys import Partition, Stream

log = structlog.get_logger()


class Meter:
    """The loop's metrics; what is counted often is added up and told once a second."""

    def __init__(self, metrics: Metrics, partition: Partition, *, role: str, reads: Stream) -> None:
        self._metrics = metrics
        self._role = role
        self._partition = str(partition)
        self._venue = partition.venue
        self._reads: Stream = reads
        self._counts: Counter[tuple[str, str]] = Counter()
        self._commits = 0
        self._recv_ns = 0
        metrics.stand(role, venue=self._venue, partition=self._partition)
        self._commit_took = metrics.observer("tapeline_commit_seconds", role=role)
        self._hop_took = metrics.observer("tapeline_hop_seconds", role=role)

    def newest(self, line: bytes) -> None:
        """Note when the newest folded event was received."""
        self._recv_ns = _received(line, self._reads) or self._recv_ns

    def committed(self, took_s: float, out: Output, *, dup: bool) -> None:
        """Count one commit and what it carried."""
        self._commits += 1
        if dup:
            self.refused("DUP")
        self._commit_took(took_s)
        if self._recv_ns:
            age_s = max(0.0, (time.time_ns() - self._recv_ns) / 1e9)
            self._hop_took(age_s)
        if out.counts:
            self._counts.update(out.counts)

    def flush(self) -> None:
        """Tell the metrics what has been added up."""
        metrics, role, partition = self._metrics, self._role, self._partition
        if self._commits:
            metrics.count("tapeline_commits_total", self._commits, role=role, partition=partition)
            self._commits = 0
        counts, self._counts = self._counts, Counter()
        for (metric, what), n in counts.items():
            self._tell(metric, what, n)
        if self._recv_ns:
            age_s = max(0.0, (time.time_ns() - self._recv_ns) / 1e9)
            metrics.gauge("tapeline_lag_seconds", age_s, role=role, partition=partition)

    def leave(self) -> None:
        """Show nothing behind: whoever owns the partition next shows it now."""
        for name in ("tapeline_lag_events", "tapeline_lag_seconds"):
            self._metrics.gauge(name, 0, role=self._role, partition=self._partition)

    def _tell(self, metric: str, what: str, n: float) -> None:
        """Fill the labels that the table asks for; ``what`` is the last ones, apart by ``/``."""
        row = TABLE[metric]
        known = {"role": self._role, "partition": self._partition, "venue": self._venue}
        open_labels = [label for label in row.labels if label not in known]
        values = what.split("/")[-len(open_labels) :] if open_labels else []
        values = ["all"] * (len(open_labels) - len(values)) + values
        known |= dict(zip(open_labels, values, strict=True))
        labels = {label: known[label] for label in row.labels}
        self._metrics.count(metric, n, **labels)

    def lag(self, events: int) -> None:
        """Tell how many events wait."""
        self._metrics.gauge("tapeline_lag_events", max(0, events), role=self._role, partition=self._partition)

    def memory(self, used: int) -> None:
        """Tell how much memory Redis uses."""
        self._metrics.gauge("tapeline_redis_memory_bytes", used)

    def refused(self, verdict: str) -> None:
        """Count a commit that was not accepted as new."""
        self._metrics.count(
            "tapeline_commit_refusals_total", role=self._role, partition=self._partition, reason=verdict
        )

    def rolled_back(self) -> None:
        """Count a rollback."""
        self._metrics.count("tapeline_rollbacks_total", role=self._role, partition=self._partition)

    def trimmed(self, events: int) -> None:
        """Count events that were gone before they were read."""
        self._metrics.count(
            "tapeline_trimmed_unread_total", events, role=self._role, partition=self._partition
        )

    def poisoned(self) -> None:
        """Count an event laid aside."""
        self._metrics.count("tapeline_poison_total", role=self._role, partition=self._partition)

    def checkpointed(self, cost_s: float) -> None:
        """Note what one checkpoint has cost."""
        self._metrics.observe("tapeline_checkpoint_seconds", cost_s, role=self._role)

    def lost(self, error: Exception) -> None:
        """Note that Redis could not be had, or not be written."""
        self._metrics.count("tapeline_redis_reconnects_total", role=self._role)
        log.warning("redis_away", role=self._role, partition=self._partition, reason=str(error))


def _received(line: bytes, stream: Stream) -> int | None:
    """Return when the event of ``line`` was received, ns; None where it does not say."""
    if stream == "raw":
        digits = line[: line.find(b" ")]
    else:
        at = line.find(b'"ts_recv":')
        digits = line[at + 10 : at + 29] if at >= 0 else b""
    return int(digits) if digits.isdigit() else None
