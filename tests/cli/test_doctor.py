"""``tapeline doctor``: each thing that can be wrong is found and has its remedy; nothing runs here."""

import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cli_rig import Tapeline
from demo_rig import await_true, free_offset

from actors.cli.health import host, net, process

CANARY = "canary-0d77"
LISTED = {
    "symbols": [
        {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT", "filters": []}
    ]
}
Answer = tuple[int, bytes]


class Venue:
    """A venue on loopback that answers every request as it is told, handshakes included."""

    def __init__(
        self, status: int, body: bytes, skew_s: float = 0.0, context: ssl.SSLContext | None = None
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response_only(status)
                self.send_header("Date", formatdate(time.time() + skew_s, usegmt=True))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def venue() -> Iterator[Callable[..., Venue]]:
    made: list[Venue] = []

    def start(status: int = 200, document: Any = LISTED, **more: Any) -> Venue:
        made.append(Venue(status, json.dumps(document).encode(), **more))
        return made[-1]

    yield start
    for each in made:
        each.close()


class Doctor:
    """Runs the command on a configuration of one venue; holds what it found."""

    def __init__(self, tapeline: Tapeline, folder: Path) -> None:
        self.tapeline = tapeline
        self.file = folder / "x.toml"
        self.offset = free_offset()

    def run(
        self,
        port: int,
        more: str = "",
        *,
        symbol: str = "BTC-USDT",
        scheme: str = "ws",
        venue: str = "binance",
        **env: str,
    ) -> Any:
        self.file.write_text(
            f"""mode = "live"
[venues.{venue}]
symbols = ["{symbol}"]
ws_url = "{scheme}://127.0.0.1:{port}"
rest_url = "http://127.0.0.1:{port}"
{more}"""
        )
        env = {"TAPELINE_PORT_OFFSET": str(self.offset)} | env
        done = self.tapeline("doctor", "--config", "x.toml", "--json", **env)
        assert CANARY not in done.stdout + done.stderr
        report = json.loads(done.stdout)
        self.found = [(f["about"], f["level"], f["says"], f["remedy"]) for f in report["findings"]]
        assert report["ok"] == (done.returncode == 0) == (not any(f[1] == "bad" for f in self.found))
        return report

    def one(self, about: str, says: str) -> tuple[str, str]:
        """Return level and remedy of the finding about ``about`` that says ``says``."""
        found = [
            (level, remedy) for name, level, text, remedy in self.found if name == about and says in text
        ]
        assert len(found) == 1, (says, self.found)
        return found[0]


@pytest.fixture
def doctor(tapeline: Tapeline, tmp_path: Path) -> Doctor:
    return Doctor(tapeline, tmp_path)


def test_what_is_not_running_yet_is_no_fault(doctor: Doctor, venue: Callable[..., Venue]):
    doctor.run(venue().port)
    assert doctor.one("ports", "free: ")[0] == "ok"
    assert doctor.one("redis", "not running; tapeline up starts ")[0] == "ok"
    assert doctor.one("leftovers", "none")[0] == "ok"
    assert doctor.one("binance", "1 symbols in ")[0] == "ok"


def test_a_redis_that_does_not_answer_is_bad(doctor: Doctor, venue: Callable[..., Venue]):
    doctor.run(venue().port, REDIS_URL=f"redis://:{CANARY}@127.0.0.1:1/0")
    level, remedy = doctor.one("redis", "no Redis answers at redis://127.0.0.1:1/0 (connection refused)")
    assert (level, remedy) == ("bad", "start it, or correct REDIS_URL")


def test_a_redis_that_may_evict_or_is_full_is_found(
    doctor: Doctor, venue: Callable[..., Venue], redis_server: Any
):
    evicting = redis_server("valkey", "--maxmemory-policy", "allkeys-lru")
    doctor.run(venue().port, REDIS_URL=evicting.url)
    assert doctor.one("redis", "may evict keys")[0] == "bad"
    small = redis_server(
        "valkey", "--maxmemory", "100mb", "--maxmemory-policy", "noeviction", "--appendfsync", "no"
    )
    doctor.run(venue().port, REDIS_URL=small.url)
    assert doctor.one("redis", "policy noeviction, AOF on")[0] == "ok"
    level, remedy = doctor.one("memory", "of 100 MiB; our streams hold up to 1024 MiB")
    assert (level, remedy) == ("warn", "lower streams.retention_bytes, or raise its maxmemory")
    assert doctor.one("redis", "appendfsync no")[0] == "warn"
    replica = redis_server("valkey", "--replicaof", f"127.0.0.1 {small.port}")
    doctor.run(venue().port, REDIS_URL=replica.url)
    assert doctor.one("redis", "it is a replica") == ("bad", "name its master, or a Sentinel")


def test_a_port_is_named_with_who_has_it(doctor: Doctor, venue: Callable[..., Venue]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 9001 + doctor.offset))
        taken.listen()
        doctor.run(venue().port)
    port = 9001 + doctor.offset
    level, remedy = doctor.one("ports", f"{port} (broadcaster.port) is used by process {os.getpid()} (")
    assert level == "bad"
    assert remedy == "stop it, or set broadcaster.port, or shift all ports with TAPELINE_PORT_OFFSET"


def test_leftovers_of_an_earlier_run_are_found(doctor: Doctor, venue: Callable[..., Venue], tmp_path: Path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / ".tapeline/targets").mkdir(parents=True)
    running = {"pid": gone.pid, "config": "x.toml", "port_offset": "0"}
    (tmp_path / ".tapeline/running.json").write_text(json.dumps(running))
    target = [{"targets": ["127.0.0.1:1"], "labels": {"process": "connector.1"}}]
    (tmp_path / ".tapeline/targets/connector.1.json").write_text(json.dumps(target))
    words = [sys.executable, "-m", "actors", "run", "redis", "--config", doctor.file]
    doctor.run(venue().port)
    with subprocess.Popen(
        words, cwd=tmp_path, env=os.environ | {"REDIS_URL": "redis://127.0.0.1:1/0"}
    ) as stray:
        try:
            await_true("it runs", lambda: process.command_of(stray.pid).startswith(sys.executable))
            doctor.run(venue().port)
        finally:
            stray.send_signal(signal.SIGKILL)
    assert doctor.one("leftovers", f"is of process {gone.pid}, which is gone")[0] == "warn"
    assert doctor.one("leftovers", "1 targets of processes that are gone")[1].startswith(
        "rm .tapeline/targets/conn"
    )
    level, remedy = doctor.one("leftovers", f"{stray.pid} (run redis)")
    assert (level, remedy) == ("warn", f"if nobody wants them: kill {stray.pid}")


def test_too_few_files_and_too_little_room_are_found(
    doctor: Doctor, venue: Callable[..., Venue], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    monkeypatch.setattr(host, "_LITTLE_BYTES", 1 << 62)
    doctor.run(venue().port)
    level, remedy = doctor.one("files", "a process may open 512 files; 1256 are wanted")
    assert (level, "ulimit -Hn 1256" in remedy) == ("warn", True)
    assert doctor.one("disk", "GiB are free for ")[0] == "bad"


def test_a_secret_that_others_can_read_is_found(doctor: Doctor, venue: Callable[..., Venue], tmp_path: Path):
    token = tmp_path / "token"
    token.write_text(CANARY)
    token.chmod(0o644)
    doctor.run(venue().port, f'[broadcaster]\ntoken_file = "{token}"\n')
    assert doctor.one("secrets", f"{token} can be read by others") == ("warn", f"chmod 600 {token}")
    token.chmod(0o600)
    doctor.run(venue().port, f'[broadcaster]\ntoken_file = "{token}"\n')
    assert not [found for found in doctor.found if found[0] == "secrets"]


def test_a_redis_url_that_cannot_be_used_is_a_finding(doctor: Doctor, venue: Callable[..., Venue]):
    doctor.run(venue().port, REDIS_URL=f"redis+sentinel://:{CANARY}@127.0.0.1")
    said = "the Redis URL redis+sentinel://127.0.0.1 cannot be read"
    assert doctor.one("redis", said) == ("bad", "check its hosts, ports and path")


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(451, "does not serve this region"), (403, "refuses this address"), (429, "asked too often")],
)
def test_a_venue_that_refuses_us_is_told_with_what_to_do(
    doctor: Doctor, venue: Callable[..., Venue], status: int, remedy: str
):
    at = venue(status, {"code": 0, "msg": "Service unavailable from a restricted location"})
    doctor.run(at.port)
    shaken = doctor.one("binance", f"ws://127.0.0.1:{at.port}/stream refuses the handshake: HTTP {status}")
    listed = doctor.one("binance", f"HTTP {status}: " + '{"code": 0')
    assert shaken[0] == listed[0] == "bad"
    assert remedy in shaken[1]
    assert shaken[1] == listed[1]


def test_a_venue_that_is_not_there_is_told(doctor: Doctor):
    doctor.run(1)
    level, remedy = doctor.one("binance", "ws://127.0.0.1:1/stream: connection refused")
    assert (level, "tapeline simulate" in remedy) == ("bad", True)
    doctor.run(1, TAPELINE_VENUES__BINANCE__WS_URL="wss://venue.invalid:9443")
    level, remedy = doctor.one("binance", "the name venue.invalid cannot be resolved")
    assert (level, remedy) == ("bad", "check DNS, the network and the URL")


def test_a_venue_of_which_all_is_asked_by_rest_needs_no_socket(doctor: Doctor, venue: Callable[..., Venue]):
    at = venue()
    doctor.run(at.port, 'channels = ["trade"]\n', venue="bitrue")
    assert (
        doctor.one("bitrue", "no socket is to be opened: all that is wanted is asked for by REST")[0] == "ok"
    )
    assert doctor.one("bitrue", f"http://127.0.0.1:{at.port}: 1 symbols in ")[0] == "ok"


def test_every_route_of_a_venue_is_tried(doctor: Doctor):
    doctor.run(1, 'channels = ["trade", "book"]\n', symbol="BTC-USDT-PERP", venue="binance_usdm")
    for route in ("market", "public"):
        assert doctor.one("binance_usdm", f"ws://127.0.0.1:1/{route}/stream: connection refused")[0] == "bad"


def test_a_symbol_that_is_not_listed_and_a_wrong_clock_are_told(doctor: Doctor, venue: Callable[..., Venue]):
    doctor.run(venue(skew_s=3600).port, symbol="BTC-USDX")
    level, remedy = doctor.one("binance", 'BTC-USDX is not listed; did you mean "BTC-USDT"?')
    assert (level, remedy) == ("bad", "correct venues.binance.symbols; tapeline symbols binance")
    assert doctor.one("clock", "binance's clock is +3600 s from ours")[0] == "warn"


def test_a_certificate_that_nobody_vouches_for_is_told(
    doctor: Doctor, venue: Callable[..., Venue], tmp_path: Path
):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=127.0.0.1",
    ]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    doctor.run(venue(context=context).port, scheme="wss")
    level, remedy = doctor.one("binance", "the certificate of 127.0.0.1 is not trusted: self")
    assert (level, "ca-certificates" in remedy) == ("bad", True)


def test_a_proxy_of_the_environment_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    assert net.proxy_of("venue.example", secure=True) is None
    monkeypatch.setenv("https_proxy", f"http://user:{CANARY}@10.0.0.1:3128")
    assert net.proxy_of("venue.example", secure=True) == "http://10.0.0.1:3128"
    monkeypatch.setenv("no_proxy", "venue.example")
    assert net.proxy_of("venue.example", secure=True) is None


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        (f"me:{CANARY}@127.0.0.1:3128", "scheme me isn't supported"),
        (f"http://me:{CANARY}@127.0.0.1:99999", "port out of range"),
        (f"socks5://me:{CANARY}@127.0.0.1:1", "SOCKS is not spoken"),
        ("http://[::1", "invalid IPv6 URL"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(doctor: Doctor, proxy: str, why: str):
    urls = {"WS_URL": "wss://venue.invalid", "REST_URL": "https://venue.invalid"}
    env = {f"TAPELINE_VENUES__BINANCE__{name}": url for name, url in urls.items()}
    doctor.run(1, HTTPS_PROXY=proxy, https_proxy=proxy, **env)
    told = [says for about, level, says, _ in doctor.found if (about, level) == ("binance", "bad")]
    assert len(told) == 2
    assert why in told[0]


def test_the_handshake_goes_through_the_proxy_of_the_environment(doctor: Doctor, venue: Callable[..., Venue]):
    at = venue(502)
    proxy = f"http://127.0.0.1:{at.port}"
    env = {"TAPELINE_VENUES__BINANCE__WS_URL": "wss://venue.invalid"}
    doctor.run(at.port, HTTPS_PROXY=proxy, https_proxy=proxy, **env)
    assert (
        doctor.one("binance", "wss://venue.invalid/stream: proxy rejected connection: HTTP 501")[0] == "bad"
    )


def test_a_date_of_no_meaning_leaves_the_clock_unknown(
    doctor: Doctor, venue: Callable[..., Venue], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        sys.modules[__name__], "formatdate", lambda *_, **__: "Wed, 21 Oct 99999 07:28:00 GMT"
    )
    at = venue()
    doctor.run(at.port)
    assert doctor.one("binance", f"http://127.0.0.1:{at.port}: 1 symbols in ")[0] == "ok"
    assert not [found for found in doctor.found if found[0] == "clock" and "binance" in found[2]]


def test_a_wrong_configuration_is_code_2(tapeline: Tapeline, tmp_path: Path):
    (tmp_path / "x.toml").write_text('mode = "liv"\n')
    done = tapeline("doctor", "--config", "x.toml")
    assert (done.returncode, "x.toml:1: mode" in done.stderr) == (2, True)
