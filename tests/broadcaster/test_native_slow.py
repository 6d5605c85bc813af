"""What becomes of subscribers that do not read: by their own choice, and never to the cost of others."""

import contextlib
import json
import socket
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from broadcaster_rig import Rig, running, until
from native_rig import Heard, NativeClient, dial, place
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from actors.model.events import L1

SMALL = 64 * 1024


async def deaf(rig: Rig) -> NativeClient:
    """A client whose kernel takes little, and who reads only when told to."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    await anyio.to_thread.run_sync(sock.connect, ("127.0.0.1", rig.server.port))
    sock.setblocking(False)
    return await dial(rig.url, sock=sock, max_queue=1)


async def flood(rig: Rig, state: str) -> int:
    """Write trades and books until a subscription is in this state; return how many trades."""
    s, n = rig.script, 0
    with anyio.fail_after(30):
        while not any(sub.state == state for subs in rig.native._subs.values() for sub in subs.values()):
            l1 = L1("binance", "BTC-USDT", None, n, None, "9", str(n + 1), "10", "1")
            await rig.tell(
                s.entry("events", *[s.trade() for _ in range(20)]),
                s.entry("books", s.book("delta", [("9", str(n + 1))], []), l1),
            )
            n += 20
            await anyio.lowlevel.checkpoint()
    return n


async def started(rig: Rig, client: NativeClient, **wishes: Any) -> None:
    s = rig.script
    if "BTC-USDT" not in s.prev:
        await rig.tell(s.entry("books", s.book("snapshot", [("9", "1")], [("10", "1")])))
    await client.subscribe(**wishes)
    await client.until("live")


@pytest.mark.parametrize("policy", ["skip", "conflate"])
async def test_who_chose_so_is_told_what_was_skipped_and_goes_on(policy: str):
    async with running(slow_client_bytes=SMALL, heartbeat_s=0.2) as r:
        slow, good = await deaf(r), await dial(r.url)
        await started(r, slow, slow=policy)
        await started(r, good)
        await flood(r, "behind")
        last = r.script.trade()
        await r.tell(
            r.script.entry("events", last),
            r.script.entry("books", r.script.book("delta", [("9", "77")], [])),
        )
        with anyio.fail_after(30):
            while "skipped" not in (notice := await slow.next()):
                pass
        spans = {
            stream: (place(of["after"])[1], place(of["to"])[1]) for stream, of in notice["skipped"].items()
        }
        heard = slow.heard
        assert notice["reason"] == "slow"
        assert spans.keys() == {"binance.0/events", "binance.0/books"}
        for stream, (after, to) in spans.items():
            assert heard.ks[stream] == [k for k in range(1, after + 1) if stream[-6:] == "events" or k > 1], (
                stream
            )
            assert to == r.script.k["events" if stream.endswith("events") else "books"]
        assert notice["events"] == sum(to - after for after, to in spans.values())
        assert r.count("tapeline_skipped_total", reason="slow") == notice["events"]
        states = [m["event"] for m in heard.states]
        said = await slow.until("live")
        whole = [m["event"] for m in heard.states][len(states) :]
        if policy == "conflate":
            assert {event["kind"] for event in whole} == {"book", "l1"}
            assert next(e for e in whole if e["kind"] == "book")["bids"] == [["9", "77"]]
        else:
            assert whole == []
        await r.tell(r.script.entry("events", r.script.trade()))
        assert (await slow.events(1))[0][
            "cursor"
        ] == f"binance.0/events/1-{place(said['live']['binance.0/events'])[1] + 1}"
        while len(good.heard.ks.get("binance.0/events", [])) < r.script.k["events"]:
            await good.next()
        assert good.heard.ks["binance.0/events"] == list(range(1, r.script.k["events"] + 1))
        assert not good.heard.notices
        for client in (slow, good):
            client.connection.transport.abort()


async def test_who_chose_nothing_is_closed():
    async with running(slow_client_bytes=SMALL) as r:
        slow = await deaf(r)
        await started(r, slow, kinds=["trade"])
        s = r.script
        with anyio.fail_after(30):
            while r.refused("slow") == 0:
                await r.tell(s.entry("events", *[s.trade() for _ in range(50)]))
                await anyio.lowlevel.checkpoint()
        await slow.pump()
        assert slow.connection.close_code == 1013
        assert (
            len(slow.heard.events) == slow.heard.ks["binance.0/events"][-1]
        )  # up to there nothing is missing


async def test_a_policy_is_of_its_subscription():
    async with running(slow_client_bytes=SMALL) as r:
        slow = await deaf(r)
        await started(r, slow, id=1, kinds=["trade"], slow="skip")
        await started(r, slow, id=2, kinds=["l1"], slow="conflate")
        await flood(r, "behind")
        await until(lambda: {s.state for of in r.native._subs.values() for s in of.values()} == {"behind"})
        with anyio.fail_after(30):
            while {n["id"] for n in (*slow.heard.notices, *slow.others[2].notices)} != {1, 2}:
                await slow.next()
        slow.connection.transport.abort()


async def test_who_reads_nothing_at_all_is_aborted_whatever_it_chose():
    async with running(slow_client_bytes=SMALL, slow_client_deadline_s=0.5) as r:
        slow = await deaf(r)
        await started(r, slow, slow="skip")
        await flood(r, "behind")
        await until(lambda: r.refused("stalled") == 1)
        await until(lambda: len(r.native.peers) == 0)
        slow.connection.transport.abort()


async def test_what_arrives_in_the_moment_of_the_end_is_not_heard():
    async with running(slow_client_bytes=SMALL) as r:
        slow, good = await deaf(r), await dial(r.url)
        await started(r, slow, slow="skip")
        await flood(r, "behind")
        (peer,) = (peer for peer, subs in r.native._subs.items() if subs)
        for now in (time.monotonic(), time.monotonic() + 60):
            r.native.peers.sweep(now)
        assert r.refused("stalled") == 1
        frame = Frame(Opcode.TEXT, b'{"op":"subscribe","id":2}').serialize(mask=True)
        peer.connection.data_received(frame)  # as it may stand in the kernel's buffer
        await until(lambda: peer not in r.native._subs and len(r.native.peers) == 1)
        await started(r, good, id=3)
        assert [sub.id for group in r.native._groups for sub in group.subs] == [3]
        for client in (slow, good):
            client.connection.transport.abort()


async def test_who_asks_and_does_not_read_the_answers_is_closed():
    async with running(slow_client_bytes=4096, max_messages_per_s=1_000_000) as r:
        slow = await deaf(r)
        request = json.dumps({"op": "list", "id": 2**53 - 1})
        await slow.subscribe(kinds=["trade"], slow="skip")
        with anyio.fail_after(30), contextlib.suppress(ConnectionClosed):  # it may be closed as we ask
            while r.refused("slow") == 0:
                for _ in range(200):
                    await slow.connection.send(request)
                await anyio.sleep(0.01)
        assert r.refused("slow") == 1
        slow.connection.transport.abort()


async def test_one_frame_serves_all_who_use_the_same_number():
    async with running() as r:
        clients = [await dial(r.url) for _ in range(5)]
        for n, client in enumerate(clients):
            await client.subscribe(id=1 if n < 4 else 2, kinds=["trade"], symbols=[["*"], ["BTC-*"]][n % 2])
            await client.until("live")
        groups = list(r.native._groups)
        assert sorted(len(group.subs) for group in groups) == [1, 2, 2]
        r.native.entry(*_trade(r))
        frames = {id(group.frames[0]) for group in groups if group.head == b'{"id":1,'}
        assert len(frames) == 1
        r.native.flush()
        for client in clients:
            assert (await client.events(1))[0]["event"]["kind"] == "trade"
            await client.connection.close()


def _trade(r: Rig) -> Any:
    stream, entry = r.script.entry("events", r.script.trade())
    return r.follower.partition, stream, entry


def test_heard_notices_a_repetition_and_a_gap_in_a_chain():
    heard = Heard()
    message = {"id": 1, "cursor": "b.0/events/1-1", "event": {"kind": "trade"}}
    heard.take(message)
    with pytest.raises(AssertionError):
        heard.take(message)


async def test_what_is_taken_back_is_told_to_whoever_is_behind_as_well():
    async with running(slow_client_bytes=SMALL) as r:
        slow = await deaf(r)
        await started(r, slow, kinds=["trade"], slow="skip")
        await flood(r, "behind")
        (sub,) = (sub for of in r.native._subs.values() for sub in of.values())
        told = next(at for place_, at in sub.at.items() if place_[1] == "events").k
        r.script.epoch, r.script.k["events"] = 2, told - 5  # a failover lost what came after
        await r.tell(r.script.entry("events", *[r.script.trade() for _ in range(8)]))
        notice = await slow.until("rollback")
        assert notice["rollback"] == {"binance.0/events": {"after": f"1-{told - 5}", "to": f"1-{told}"}}
        skipped = await slow.until("skipped")
        assert skipped["skipped"]["binance.0/events"] == {"after": f"1-{told - 5}", "to": f"2-{told + 3}"}
        slow.connection.transport.abort()


async def test_conflation_says_what_stands_even_to_whoever_did_not_ask_for_it_at_first():
    async with running(slow_client_bytes=SMALL) as r:
        slow = await deaf(r)
        await started(r, slow, kinds=["book", "l1"], snapshot=False, slow="conflate")
        assert not slow.heard.states
        await flood(r, "behind")
        await slow.until("skipped")
        await slow.until("live")
        assert {m["event"]["kind"] for m in slow.heard.states} == {"book", "l1"}
        slow.connection.transport.abort()
