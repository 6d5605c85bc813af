"""What a user can get wrong about Redis gives one plain message with the remedy and no secret."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from redis_rig import Binary, free_port, server_binary

from actors.config import RedisSettings, Settings, VenueSettings
from actors.streams import client as module
from actors.streams.client import connect, hot
from actors.streams.errors import RedisUnusable
from actors.streams.keys import Keys, Partition
from actors.streams.lease import Lease
from actors.streams.ledger import Ledger
from actors.streams.partition import Appender, newest, remember
from actors.streams.readers import forget, readers, trim
from actors.streams.scripts import COMMIT
from actors.streams.url import parse

CANARY = "s3cr3t-canary"
KEYS = Keys()
P = Partition("binance", 0)
RAW = KEYS.stream(P, "raw")


async def refusal(settings: Settings, wait_s: float = 0.0) -> str:
    with pytest.raises(RedisUnusable) as caught:
        await connect(settings, "test", wait_s=wait_s)
    message = str(caught.value)
    assert CANARY not in message
    assert CANARY not in repr(caught.value)
    assert "\n" not in message
    return message


async def test_an_absent_server_is_named_with_the_remedy(settings_for):
    began = time.monotonic()
    message = await refusal(settings_for(f"redis://user:{CANARY}@127.0.0.1:1/0"))
    assert message == (
        "no Redis answers at redis://127.0.0.1:1/0 (connection refused): start it, or correct REDIS_URL"
    )
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("unix:///nowhere/redis.sock", "no such file or directory"),
        ("redis+sentinel://127.0.0.1:1/main", "no Sentinel of it knows the master"),
        ("redis+cluster://127.0.0.1:1", "connection refused"),
        ("redis://name.invalid:1/0", "name"),
    ],
)
async def test_why_no_server_answers_is_told(settings_for, url: str, why: str):
    message = await refusal(settings_for(url))
    assert message.startswith(f"no Redis answers at {url} (")
    assert why in message


async def test_what_is_not_redis_is_told(settings_for):
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:

        async def answer(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                await stream.receive()

        async with anyio.create_task_group() as tg:
            tg.start_soon(listener.serve, answer)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            assert "is not Redis: correct REDIS_URL" in await refusal(
                settings_for(f"redis://127.0.0.1:{port}/0")
            )
            tg.cancel_scope.cancel()


async def test_the_embedded_server_that_is_absent_has_its_own_remedy():
    own = Settings(
        mode="demo", redis=RedisSettings(port=1), venues={"binance": VenueSettings(symbols=["BTC-USDT"])}
    )
    assert "honcho's redis line" in await refusal(own)


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{CANARY}@h/0",
        f"redis+sentinel://user:{CANARY}@h1,h2",
        f"redis+cluster://user:{CANARY}@h1:not_a_port",
        f"redis://user:{CANARY}@h:not_a_port/0",
    ],
)
async def test_an_unreadable_url_is_refused_without_its_password(settings_for, url: str):
    assert "Redis URL" in await refusal(settings_for(url))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h?timeout=3&foo=bar", "may not have the option 'timeout': leave it out (db, password, us"),
        ("redis://h?decode_responses=yes", "may not have the option 'decode_responses'"),
        ("redis://h/0?protocol=2", "may not have the option 'protocol'"),
        ("redis://h?path=/y", "may not have the option 'path'"),
        ("redis+sentinel://h/main?sentinel_foo=1", "may not have the option 'sentinel_foo'"),
        ("redis+cluster://h?ssl_cert_reqs=none", "has ssl_cert_reqs and no TLS: write rediss"),
        ("rediss+cluster://h?ssl_ca_path=/x", "may not have the option 'ssl_ca_path'"),
        ("redis://h/main", "cannot be read"),
        ("redis://h/0/1", "cannot be read"),
    ],
)
def test_a_url_that_the_client_would_trip_over_is_refused(url: str, says: str):
    with pytest.raises(RedisUnusable) as caught:
        parse(url)
    assert says in str(caught.value)


def test_urls_are_taken_apart():
    sentinel = parse("redis+sentinel://me:p%40ss@h1,h2:26380/main/3?sentinel_password=x")
    assert sentinel.hosts == [("h1", 26379), ("h2", 26380)]
    assert sentinel.master == "main"
    assert sentinel.options == {"username": "me", "password": "p@ss", "db": 3, "sentinel_password": "x"}
    assert sentinel.shown == "redis+sentinel://h1,h2:26380/main/3"
    cluster = parse("rediss+cluster://:p@h1:7000,h2:7001?ssl_cert_reqs=none")
    assert (cluster.kind, cluster.tls, cluster.hosts) == ("cluster", True, [("h1", 7000), ("h2", 7001)])
    assert cluster.options == {"password": "p", "ssl_cert_reqs": "none"}
    assert parse("unix:///tmp/x.sock?db=2").options == {"path": "/tmp/x.sock", "db": 2}


@pytest.mark.redis
async def test_a_wrong_password_is_said_and_not_shown(redis_server, settings_for):
    server = redis_server(password="right")
    wrong = server.url.replace("right", CANARY)
    assert "refuses the user or password" in await refusal(settings_for(wrong), wait_s=5)
    none = f"redis://127.0.0.1:{server.port}/0"
    assert "refuses the user or password" in await refusal(settings_for(none), wait_s=5)


@pytest.mark.redis
async def test_a_server_that_may_evict_or_forget_is_refused(redis_server, settings_for):
    server = redis_server()
    with server.client() as admin:
        admin.config_set("maxmemory-policy", "allkeys-lru")
        assert "set maxmemory-policy noeviction" in await refusal(settings_for(server))
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("appendonly", "no")
        assert "set appendonly yes" in await refusal(settings_for(server))


@pytest.mark.redis
async def test_an_old_server_is_refused(redis_server, settings_for, monkeypatch):
    async def old(*_: object) -> list[dict[str, object]]:
        return [{"redis_version": "6.0.16"}]

    monkeypatch.setattr(module, "_info", old)
    assert "is 6.0.16: 6.2 or newer is needed" in await refusal(settings_for(redis_server()))


@pytest.mark.redis
async def test_a_node_of_a_cluster_is_told_to_be_one(redis_server, settings_for):
    bus = str(free_port())  # else 10,000 above its port, which may be too high
    server = redis_server("valkey", "--cluster-enabled", "yes", "--cluster-port", bus)  # says server_mode
    assert "is a node of a cluster: write redis+cluster://" in await refusal(settings_for(server))
    whole = f"redis+cluster://127.0.0.1:{server.port}"
    assert "(no node of the cluster owns a slot): correct REDIS_URL" in await refusal(settings_for(whole))


@pytest.mark.redis
async def test_a_sentinel_in_place_of_its_master_is_told(redis_server, settings_for, tmp_path: Path):
    master, port = redis_server("valkey"), free_port()
    with sentinel(tmp_path, port, master.port, "valkey"):
        url = f"redis://127.0.0.1:{port}/0"
        assert "is a Sentinel: write redis+sentinel://" in await refusal(settings_for(url), wait_s=5)


async def test_a_server_whose_info_lacks_what_we_ask_is_told(redis_server, settings_for, monkeypatch):
    async def bare(*_: object) -> list[dict[str, object]]:
        return [{"redis_version": "unstable"}]

    server = redis_server()
    monkeypatch.setattr(module, "_info", bare)
    assert "is unstable: 6.2 or newer is needed" in await refusal(settings_for(server))

    async def newer(*_: object) -> list[dict[str, object]]:
        return [{"redis_version": "7.2.4"}]

    monkeypatch.setattr(module, "_info", newer)
    assert "its INFO has no maxmemory_policy" in await refusal(settings_for(server))


@pytest.mark.redis
async def test_what_takes_no_writes_is_told_with_the_remedy(redis_server, settings_for):
    master = redis_server("valkey")
    replica = redis_server("valkey", "--replicaof", f"127.0.0.1 {master.port}")
    assert "is a replica, which takes no writes" in await refusal(settings_for(replica))
    with master.client() as admin:
        admin.config_set("maxmemory", "1")
        assert "is full, and takes no writes: raise its maxmemory" in await refusal(settings_for(master))
        admin.config_set("maxmemory", "0")
        admin.set(KEYS.meta(), "another program's")
    assert "another program's data under tl: set another redis.prefix" in await refusal(settings_for(master))
    far = f"redis://127.0.0.1:{master.port}/99"
    assert "(DB index is out of range): correct REDIS_URL" in await refusal(settings_for(far))


@pytest.mark.redis
async def test_another_configuration_is_told_both_values_and_the_remedy(redis_server, settings_for):
    server = redis_server()
    await (await connect(settings_for(server), "test", claim=False)).aclose()
    with server.client() as admin:
        assert not admin.exists(KEYS.meta())
        await (await connect(settings_for(server), "test")).aclose()
        assert admin.hgetall(KEYS.meta()) == {"schema": "1", "mode": "demo", "shards:binance": "1"}
    message = await refusal(settings_for(server, mode="live"))
    assert message.startswith("mode is live here, but the data under tl: in Redis was written with demo")
    more = {"binance": VenueSettings(symbols=["BTC-USDT"], shards=2)}
    message = await refusal(settings_for(server, venues=more))
    assert message.startswith("venues.binance.shards is 2 here")
    assert "set it back to 1, or set another redis.prefix" in message
    with server.client() as admin:
        admin.hset(KEYS.meta(), "schema", "9")
    assert "has schema version 9, this program writes 1" in await refusal(settings_for(server))


@pytest.mark.redis
async def test_a_server_that_comes_a_little_later_is_waited_for(redis_server, settings_for):
    server = redis_server()
    server.kill9()
    async with anyio.create_task_group() as tg:

        async def later() -> None:
            await anyio.sleep(0.3)
            await anyio.to_thread.run_sync(server.start)

        tg.start_soon(later)
        client = await connect(settings_for(server), "test")
        await client.aclose()


async def use_everything(settings: Settings) -> None:
    """Do what an actor does: append, commit, follow, trim, look for readers."""
    client = await connect(settings, "test")
    connection = await hot(settings, RAW)
    lease = Lease(client, KEYS, P, role="toy", leg=None, owner="me", ttl_s=3)
    assert await lease.take()
    appender = await Appender.open(connection, KEYS, P, "a", lease)
    cursor = await appender.append([b"x", b"y"])
    ledger = Ledger(KEYS, P, role="toy", lease_key=lease.key, reads="raw", writes=("events", "control"))
    at = (await ledger.load(connection)).cursor or cursor._replace(epoch=0, k=0)
    command = ledger.commit(
        lease.epoch,
        at,
        cursor,
        entries=[("events", [b"e"]), ("control", [b"c"])],
        latest={("top", "X"): b"1"},
        checkpoint=(1, b""),
    )
    assert (await connection.call(*COMMIT.taught(command)))[0] == b"OK"
    await remember(connection, KEYS, P, "other", {"events": cursor})
    assert {r.role for r in await readers(connection, KEYS, P)} == {"toy", "other"}
    await trim(connection, KEYS, P, role="toy", stream="events", roles=["other"], floor_s=1, cap_bytes=10**9)
    assert (await newest(connection, KEYS, P, "events")).k >= 1
    assert await forget(connection, KEYS, P, "other")
    assert not await forget(connection, KEYS, P, "other")
    await lease.release()
    await connection.aclose()
    await client.aclose()


@pytest.mark.redis
async def test_the_documented_least_privilege_is_enough_and_less_is_named(redis_server, settings_for):
    server = redis_server("redis7")
    text = module.__doc__ or ""
    rules = text[text.index("~tl:*") : text.index("(Cluster:")].split()
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "tape", "on", f">{CANARY}", *rules)
        settings = settings_for(f"redis://tape:{CANARY}@127.0.0.1:{server.port}/0")
        await use_everything(settings)
        admin.execute_command("ACL", "SETUSER", "tape", "-info")
        message = await refusal(settings)
    assert "denies its user a command or key" in message
    assert "info" in message


@pytest.mark.redis
async def test_a_password_another_database_and_a_unix_socket_serve(
    redis_server, settings_for, tmp_path: Path
):
    path = tmp_path / "s.sock"
    server = redis_server("valkey", "--unixsocket", str(path), password="pass word")
    await use_everything(settings_for(f"redis://:pass%20word@127.0.0.1:{server.port}/3"))
    await use_everything(settings_for(f"unix://:pass%20word@{path}?db=4"))
    with server.client() as admin:
        assert set(admin.info("keyspace")) == {"db3", "db4"}


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return the files of a fresh key and its certificate for localhost."""
    openssl = shutil.which("openssl")
    if openssl is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no openssl to make a certificate with")
    key, cert = folder / "key.pem", folder / "cert.pem"
    make = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    make += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(make, check=True, capture_output=True)
    return key, cert


@contextmanager
def sentinel(folder: Path, port: int, master: int, binary: Binary = "redis7") -> Iterator[None]:
    """Run a Sentinel that watches one master called ``main``."""
    conf = folder / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {master} 1\n"
    )
    with (folder / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([server_binary(binary), str(conf), "--sentinel"], stdout=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.redis
async def test_tls_is_verified(redis_server, settings_for, tmp_path: Path):
    key, cert = certificate(tmp_path)
    port = free_port()
    redis_server(
        "redis7", "--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no",
    )  # fmt: skip
    await use_everything(settings_for(f"rediss://localhost:{port}/0?ssl_ca_certs={cert}"))
    assert "no Redis answers" in await refusal(settings_for(f"rediss://localhost:{port}/0"))


@pytest.mark.redis
async def test_sentinel_leads_to_the_master(redis_server, settings_for, tmp_path: Path):
    master, port = redis_server("redis7"), free_port()
    with sentinel(tmp_path, port, master.port):
        await use_everything(settings_for(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/main"))
        assert "no Redis answers" in await refusal(settings_for(f"redis+sentinel://127.0.0.1:{port}/other"))
