"""The dashboard *Overview*, written as code: ``python grafana/generate.py`` renews the committed JSON.

Classic format, schema version 42. ``ROWS`` is what it shows; every expression in it is asked of a real
Prometheus by ``tests/test_dashboards.py``, and every counter of loss in ``actors/runtime/metrics.py`` has a
panel in the row *Loss* without anybody adding it.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from actors.runtime.metrics import TABLE

OVERVIEW: Final = Path(__file__).parent / "dashboards" / "overview.json"
DATASOURCE: Final = {"type": "prometheus", "uid": "tapeline"}
_RATE: Final = "$__rate_interval"
_WIDTH: Final = 24
_RED, _GREEN, _ORANGE = "red", "green", "orange"


class Query(NamedTuple):
    """One expression and the name of its series."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel. ``kind`` is Grafana's type; ``bad_from``: values from there on are shown red."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    help: str = ""
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    bad_from: float | None = None
    good_from: float | None = None  # below it is bad


def rate(metric: str, *by: str, legend: str = "") -> Query:
    """Return how often a second, by labels; ``legend`` stands before their values."""
    return _grouped("sum", f"rate({metric}[{_RATE}])", by, legend)


def more(metric: str, *by: str, legend: str = "") -> Query:
    """Return how many more, by labels: of what is rare, and told as a number of times."""
    return _grouped("sum", f"increase({metric}[{_RATE}])", by, legend)


def total(metric: str, *by: str) -> Query:
    """Return the sum of a gauge by labels."""
    return _grouped("sum", metric, by)


def worst(metric: str, *by: str) -> Query:
    """Return the largest value of a gauge by labels."""
    return _grouped("max", metric, by)


def quantiles(metric: str, *by: str) -> tuple[Query, ...]:
    """Return the median and the 99th percentile of a histogram by labels."""
    buckets = _grouped("sum", f"rate({metric}_bucket[{_RATE}])", ("le", *by)).expr
    return tuple(
        Query(f"histogram_quantile({q}, {buckets})", f"{_values(by)} {name}".strip())
        for q, name in ((0.5, "p50"), (0.99, "p99"))
    )


def _grouped(how: str, expr: str, by: tuple[str, ...], legend: str = "") -> Query:
    over = f"{how} by ({', '.join(by)}) ({expr})" if by else f"{how}({expr})"
    return Query(over, f"{legend} {_values(by)}".strip())


def _values(labels: tuple[str, ...]) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in labels)


def _stat(title: str, unit: str, expr: str, help_: str, **limits: float) -> Panel:
    return Panel(title, unit, (Query(expr),), help_, kind="stat", width=4, height=4, **limits)


def _loss() -> tuple[Panel, ...]:
    """Return a panel for every counter of loss: what its help says, by its labels."""
    return tuple(
        Panel(
            name.removeprefix("tapeline_").removesuffix("_total").replace("_", " "),
            "short",
            (more(name, *row.labels),),
            row.help,
            width=6,
            bad_from=0.5,
        )
        for name, row in TABLE.items()
        if row.loss
    )


# A formation without a master has no counters of one: they add nothing, and nobody scraped shows nothing.
_LOSSES: Final = " + ".join(
    f"(sum(increase({name}[1h])) or vector(0))" for name, row in TABLE.items() if row.loss
)
_LOST: Final = f"({_LOSSES}) and on () count(up == 1)"

ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "Now",
        (
            _stat(
                "Venues down",
                "short",
                "sum(1 - max by (venue) (tapeline_venue_up))",
                "Venues without an open connection. First step: tapeline status says why.",
                bad_from=1,
            ),
            _stat(
                "Events a second", "short", f"sum(rate(tapeline_events_total{{role='normalizer'}}[{_RATE}]))",
                "Normalized events of all venues.",
            ),
            _stat(
                "Books not live", "short", "sum(tapeline_books{state!='live'})",
                "Books that are not to be trusted now.", bad_from=1,
            ),
            _stat(
                "Behind", "s", "max(tapeline_lag_seconds)",
                "Age of the newest event that the slowest reader has taken.", bad_from=5,
            ),
            _stat("Clients", "short", "sum(tapeline_clients)", "WebSocket clients connected."),
            _stat(
                "Lost in the last hour", "short", _LOST,
                "All counters of loss together: the row Loss says which.", bad_from=0.5,
            ),
        ),
    ),
    (
        "Loss: must stay at zero, or say why",
        _loss(),
    ),
    (
        "Venues",
        (
            Panel(
                "Up", "bool_on_off", (worst("tapeline_venue_up", "venue"),),
                "1 while a connection is open.", kind="state-timeline", good_from=1,
            ),
            Panel("Connections open", "short", (total("tapeline_connections", "venue"),)),
            Panel(
                "Connections ended", "short", (rate("tapeline_reconnects_total", "venue", "reason"),),
                "replaced and shutdown are our own wish.",
            ),
            Panel("Frames", "cps", (rate("tapeline_frames_total", "venue"),)),
            Panel("Bytes", "Bps", (rate("tapeline_frame_bytes_total", "venue"),)),
            Panel(
                "REST", "reqps",
                (
                    rate("tapeline_rest_requests_total", "venue", "reason"),
                    rate("tapeline_rest_failures_total", "venue", "reason", legend="failed"),
                ),
            ),
        ),
    ),
    (
        "Events",
        (
            Panel("Events by kind", "cps", (rate("tapeline_events_total", "kind"),)),
            Panel("Events by partition", "cps", (rate("tapeline_events_total", "role", "partition"),)),
            Panel(
                "Dropped rightly", "cps",
                (
                    rate("tapeline_duplicates_total", "venue", "reason", legend="seen before:"),
                    rate("tapeline_ignored_total", "venue", "reason", legend="no event:"),
                ),
            ),
            Panel(
                "Behind, in events", "short", (worst("tapeline_lag_events", "role", "partition"),),
                "Between a reader's cursor and its stream's head.",
            ),
            Panel(
                "Behind, in seconds", "s", (worst("tapeline_lag_seconds", "role", "partition"),),
                "Age of the newest event that a reader has taken.", bad_from=5,
            ),
            Panel("Subscriptions", "short", (total("tapeline_subscriptions", "channel", "state"),)),
        ),
    ),
    (
        "Books",
        (
            Panel("Books by state", "short", (total("tapeline_books", "state"),)),
            Panel("Books started again", "short", (rate("tapeline_resyncs_total", "venue", "reason"),)),
            Panel(
                "Books audited", "short", (rate("tapeline_book_audits_total", "venue", "reason"),),
                "Compared with what REST gives, where nothing in the stream proves a book.",
            ),
            Panel("Books by partition", "short", (total("tapeline_books", "partition", "state"),)),
        ),
    ),
    (
        "Latency",
        (
            Panel(
                "Received to committed", "s", quantiles("tapeline_hop_seconds", "role"),
                "From the venue's frame to the commit of what it became.",
            ),
            Panel(
                "Received to delivered", "s", quantiles("tapeline_delivery_seconds"),
                "From the venue's frame to the client's socket.",
            ),
            Panel("One commit", "s", quantiles("tapeline_commit_seconds", "role")),
        ),
    ),
    (
        "Clients",
        (
            Panel("Clients", "short", (total("tapeline_clients", "dialect"),)),
            Panel("Frames to clients", "cps", (rate("tapeline_client_frames_total", "dialect"),)),
            Panel("Waiting in their sockets", "bytes", (total("tapeline_client_buffer_bytes"),)),
            Panel(
                "Refused or closed by us", "short",
                (
                    rate("tapeline_clients_refused_total", "reason"),
                    rate("tapeline_request_errors_total", "reason", legend="request:"),
                ),
            ),
            Panel(
                "Native subscriptions", "short", (total("tapeline_subscribers", "state"),),
            ),
            Panel(
                "Replayed and published", "cps",
                (
                    rate("tapeline_replayed_events_total", legend="replayed"),
                    rate("tapeline_published_total", "kind", legend="published"),
                ),
            ),
        ),
    ),
    (
        "Master and the way to it",
        (
            Panel(
                "Messages sent and acknowledged", "cps",
                (
                    rate("tapeline_forward_sent_total", legend="sent"),
                    rate("tapeline_forward_acked_total", legend="acknowledged"),
                    rate("tapeline_forward_resent_total", legend="sent once more"),
                    rate("tapeline_forward_skipped_total", "reason", legend="no word for it:"),
                ),
            ),
            Panel(
                "Oldest unacknowledged", "s", (worst("tapeline_forward_unacked_seconds", "partition"),),
                bad_from=30,
            ),
            Panel(
                "Sockets to the master", "short",
                (
                    total("tapeline_forward_connections", "state"),
                    more("tapeline_forward_reconnects_total", "reason", legend="ended:"),
                ),
            ),
            Panel(
                "Master: messages", "cps",
                (
                    rate("tapeline_master_messages_total", "kind"),
                    rate("tapeline_master_duplicates_total", legend="had already"),
                    rate("tapeline_master_asked_back_total", legend="asked back"),
                    rate("tapeline_master_throttled_total", legend="slowed down"),
                ),
            ),
            Panel(
                "Master: connections", "short",
                (
                    total("tapeline_master_connections", "dialect"),
                    more("tapeline_master_refused_total", "reason", legend="refused:"),
                ),
            ),
            Panel(
                "Master: one write", "s",
                (
                    *quantiles("tapeline_master_commit_seconds"),
                    more("tapeline_master_write_failures_total", legend="failed writes"),
                ),
            ),
            Panel(
                "Master: files", "Bps",
                (
                    rate("tapeline_master_bytes_total", legend="written"),
                    rate("tapeline_master_cut_bytes_total", legend="torn ends cut at the start"),
                ),
            ),
        ),
    ),
    (
        "Processes",
        (
            Panel("CPU", "percentunit", (Query(f"rate(process_cpu_seconds_total[{_RATE}])", "{{process}}"),)),
            Panel("Memory", "bytes", (Query("process_resident_memory_bytes", "{{process}}"),)),
            Panel(
                "Redis", "bytes", (Query("max(tapeline_redis_memory_bytes)", "used_memory"),),
            ),
            Panel(
                "Event loop late", "s", (Query("tapeline_loop_lag_seconds", "{{process}}"),), bad_from=0.5,
            ),
            Panel(
                "Started again", "short",
                (
                    Query("max by (process) (tapeline_restarts_total)", "{{process}}"),
                    more("tapeline_redis_reconnects_total", "role", legend="lost Redis"),
                ),
                "Restarts by the supervisor since the formation began; connections to Redis lost.",
            ),
            Panel(
                "Leases and commits", "short",
                (
                    more("tapeline_lease_changes_total", "role", "reason", legend="lease"),
                    more("tapeline_commit_refusals_total", "role", "reason", legend="refused"),
                    rate("tapeline_commits_total", "role", legend="commits"),
                ),
            ),
            Panel("One checkpoint", "s", quantiles("tapeline_checkpoint_seconds", "role")),
            Panel("Processes seen", "short", (Query("sum by (job) (up)", "{{job}}"),)),
        ),
    ),
)  # fmt: skip


def _steps(panel: Panel) -> list[dict[str, object]]:
    if panel.bad_from is not None:
        return [{"color": _GREEN, "value": None}, {"color": _RED, "value": panel.bad_from}]
    if panel.good_from is not None:
        return [{"color": _RED, "value": None}, {"color": _GREEN, "value": panel.good_from}]
    return [{"color": _GREEN, "value": None}]


def _options(panel: Panel) -> dict[str, object]:
    match panel.kind:
        case "stat":
            reduce: dict[str, Any] = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            return {"colorMode": "background" if panel.bad_from else "value", "reduceOptions": reduce}
        case "state-timeline":
            return {"showValue": "never", "legend": {"showLegend": False}}
        case _:
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, object]:
    custom = {"lineWidth": 1, "fillOpacity": 10} if panel.kind == "timeseries" else {}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": _steps(panel)},
            },
            "overrides": [],
        },
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "range": True,
            }
            for place, query in enumerate(panel.queries)
        ],
    }


def _row(title: str, number: int, y: int) -> dict[str, object]:
    grid = {"x": 0, "y": y, "w": _WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": grid, "panels": []}


def _laid_out() -> list[dict[str, object]]:
    """Return all panels, each row's from left to right and wrapped."""
    placed: list[dict[str, object]] = []
    y = 0
    for title, panels in ROWS:
        placed.append(_row(title, len(placed) + 1, y))
        y, x = y + 1, 0
        for panel in panels:
            if x + panel.width > _WIDTH:
                x, y = 0, y + panel.height
            placed.append(_panel(panel, len(placed) + 1, x, y))
            x += panel.width
        y += panels[-1].height
    return placed


def overview() -> dict[str, object]:
    """Return the dashboard."""
    return {
        "uid": "tapeline-overview",
        "title": "Overview",
        "description": "Tapeline: what flows, how late, and what is lost.",
        "tags": ["tapeline"],
        "schemaVersion": 42,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "",
        "templating": {"list": []},
        "annotations": {"list": []},
        "links": [],
        "panels": _laid_out(),
    }


def text() -> str:
    """Return the dashboard as it is committed."""
    return json.dumps(overview(), indent=1) + "\n"


if __name__ == "__main__":
    OVERVIEW.write_text(text(), encoding="utf-8")
