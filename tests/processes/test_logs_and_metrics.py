"""Logs strike secrets out and limit repeats; metrics are served from one table on loopback."""

import io
import json
import logging
import re
import socket
import urllib.error
import urllib.request

import anyio
import pytest
import structlog

from actors.config import (
    BroadcasterSettings,
    ConfigError,
    LogSettings,
    RedisSettings,
    Settings,
    VenueSettings,
)
from actors.runtime import log
from actors.runtime.exporter import exporting, watch_loop
from actors.runtime.metrics import TABLE, Metrics

CANARY = "canary-c0de"


def settings(*, pretty: bool = False) -> Settings:
    return Settings(
        mode="live",
        redis=RedisSettings(url=f"redis://user:{CANARY}-r@h/0"),  # type: ignore[arg-type]
        broadcaster=BroadcasterSettings(token=f"{CANARY}-t"),  # type: ignore[arg-type]
        log=LogSettings(pretty=pretty),
        venues={"binance": VenueSettings(symbols=["BTC-USDT"])},
    )


@pytest.fixture
def written():
    """What was logged, and the log as it was before."""
    out = io.StringIO()
    before = structlog.get_config()
    handlers = logging.getLogger().handlers[:]
    yield out
    structlog.configure(**before)
    logging.getLogger().handlers[:] = handlers


@pytest.mark.parametrize("pretty", [True, False])
def test_secrets_are_struck_out_wherever_they_stand(written: io.StringIO, *, pretty: bool):
    log.setup("connector", settings(pretty=pretty), written)
    logger = structlog.get_logger()
    logger.warning("refused", url=f"redis://:{CANARY}-r@h", seen=[f"{CANARY}-t"], why={"x": f"{CANARY}-t"})
    logger.warning("other", url=f"wss://u:{CANARY}-unknown@venue/ws")
    logging.getLogger("library").warning("GET %s", f"http://{CANARY}-t/")
    try:
        raise ValueError(f"bad {CANARY}-t")
    except ValueError:
        logger.exception("failed")
    assert CANARY not in written.getvalue()
    assert written.getvalue().count("***") >= 5


def test_a_program_reads_one_json_document_a_line(written: io.StringIO):
    log.setup("connector", settings(), written)
    structlog.get_logger().warning("gap", venue="kraken", expected=1041)
    line = json.loads(written.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", line.pop("ts"))
    assert line == {
        "role": "connector",
        "level": "warning",
        "event": "gap",
        "venue": "kraken",
        "expected": 1041,
    }


def test_what_is_below_the_level_is_not_written(written: io.StringIO):
    log.setup("connector", settings(), written)
    structlog.get_logger().debug("detail")
    assert written.getvalue() == ""


def test_repeats_are_limited_and_counted(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    repeats = log.Repeats(in_a_window=2, window_s=10)

    def passed(**event: object) -> list[dict[str, object]]:
        try:
            return [dict(repeats(None, "warning", {"event": "gap", **event}))]
        except structlog.DropEvent:
            return []

    assert [len(passed(n=n)) for n in range(5)] == [1, 1, 0, 0, 0]
    assert passed(venue="okx")  # another matter
    now[0] = 11.0
    assert passed() == [{"event": "gap", "repeats": 3}]
    now[0] = 40.0
    assert passed() == [{"event": "gap"}]


def test_a_storm_of_the_same_grows_rarer_until_it_is_over(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    repeats = log.Repeats(in_a_window=3, window_s=10)

    def passes() -> bool:
        try:
            repeats(None, "warning", {"event": "redis_away"})
        except structlog.DropEvent:
            return False
        return True

    passed: list[float] = []
    while now < 200:
        if passes():
            passed.append(now)
        now += 1.0
    assert passed == [0, 10, 30, 70, 130, 190]
    now = 1000.0
    assert passes()
    now = 1010.0
    assert passes()


def test_metrics_are_served_on_the_port_that_honcho_gave(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setenv("TAPELINE_RESTARTS", "3")
    with exporting(metrics := Metrics(), "connector") as address:
        metrics.count("tapeline_frames_total", 5, venue="binance")
        with urllib.request.urlopen(f"http://{address}/metrics") as answer:
            text = answer.read().decode()
    assert 'tapeline_frames_total{venue="binance"} 5.0' in text
    assert 'tapeline_restarts_total{role="connector"} 3.0' in text
    assert "_created" not in text
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=1)


def test_a_taken_metrics_port_is_named(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("PORT", str(other.getsockname()[1]))
        with (
            pytest.raises(ConfigError, match=r"metrics of connector cannot listen.*TAPELINE_PORT_OFFSET"),
            exporting(Metrics(), "connector"),
        ):
            pass


@pytest.mark.parametrize("port", ["x", "70000", "-1"])
def test_a_port_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, port: str):
    monkeypatch.setenv("PORT", port)
    with pytest.raises(ConfigError, match="PORT is"), exporting(Metrics(), "connector"):
        pass


def test_without_a_port_nothing_is_served(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PORT", raising=False)
    with exporting(Metrics(), "connector") as address:
        assert address is None


async def test_a_blocked_loop_shows():
    metrics = Metrics()
    async with anyio.create_task_group() as tg:
        tg.start_soon(watch_loop, metrics, "connector")
        with anyio.fail_after(30):
            while (
                metrics.registry.get_sample_value("tapeline_loop_lag_seconds", {"role": "connector"}) is None
            ):
                await anyio.sleep(0.01)
        tg.cancel_scope.cancel()


UNITS = (
    "_seconds",
    "_bytes",
    "_total",
    "_up",
    "_connections",
    "_clients",
    "_books",
    "_subscriptions",
    "_subscribers",
    "_events",
)
LABELS = {"role", "venue", "channel", "kind", "partition", "reason", "state", "dialect"}


@pytest.mark.parametrize("name", TABLE)
def test_every_metric_follows_the_rules(name: str):
    row = TABLE[name]
    assert re.fullmatch(r"tapeline_[a-z0-9_]+", name)
    assert name.endswith(UNITS)
    assert (row.kind == "counter") == name.endswith("_total")
    assert set(row.labels) <= LABELS  # closed sets, and never a symbol
    assert row.help.endswith(".")
    assert not row.loss or row.kind == "counter"
    metrics = Metrics()
    labels = dict.fromkeys(row.labels, "x")
    {"counter": metrics.count, "gauge": metrics.gauge, "histogram": metrics.observe}[row.kind](
        name, 1, **labels
    )


def test_a_metric_or_label_that_is_not_in_the_table_is_an_error():
    with pytest.raises(KeyError):
        Metrics().count("tapeline_nothing_total")
    with pytest.raises(ValueError, match="has the labels"):
        Metrics().count("tapeline_frames_total", symbol="BTC-USDT")
