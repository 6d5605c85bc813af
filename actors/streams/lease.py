"""Leases: who owns which partition, and how instances share them without knowing each other.

A lease saves work and numbers the writer; that nothing is written twice rests on the compare-and-set
of ``commit.lua`` and the batch numbers of ``append.lua``.
"""

import hashlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol, cast

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup, TaskStatus
from redis.asyncio import Redis

from actors.config import Settings
from actors.streams.client import connect, server_ms
from actors.streams.errors import FAULTS, Fenced, is_passing
from actors.streams.keys import Keys, Partition
from actors.streams.observer import Observer
from actors.streams.scripts import ACQUIRE
from actors.streams.wire import Hot

log = structlog.get_logger()

_SEEK_S: Final = 0.25  # chosen: a released lease is taken over within this
_SHED_S: Final = 1.0  # DESIGN 5: surplus goes one a second
_DRAIN_S: Final = 2.2  # chosen: of the 2.5 s that SIGTERM gives
_FORGET_MEMBER_MS: Final = 60_000
_AGAIN_S: Final = 0.05  # chosen: how soon what could not be renewed is tried again

Wanted = tuple[Partition, str | None]


class Holder(Protocol):
    """The part of an actor that is used here."""

    @property
    def settings(self) -> Settings: ...  # noqa: D102
    @property
    def keys(self) -> Keys: ...  # noqa: D102
    @property
    def role(self) -> str: ...  # noqa: D102
    @property
    def instance(self) -> str: ...  # noqa: D102
    @property
    def metrics_address(self) -> str | None: ...  # noqa: D102
    @property
    def metrics(self) -> Observer: ...  # noqa: D102
    @property
    def stopping(self) -> anyio.Event: ...  # noqa: D102


class Lease:
    """One lease of mine. While ``held``, what is written under ``epoch`` counts.

    ``epoch`` grows when the lease had run out and nobody took it (an outage, a stopped process), and
    by ``force``; whoever must know compares it with the one it began with. ``ending`` is set when the
    work should drain and return: at the stop of the actor, or because another instance shall have it.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        partition: Partition,
        *,
        role: str,
        leg: str | None,
        owner: str,
        ttl_s: float,
    ) -> None:
        self._client = client
        self._ttl_ms = int(ttl_s * 1000)
        self._lock = anyio.Lock()
        self.key = keys.lease(partition, role, leg)
        self.partition = partition
        self.role = role
        self.leg = leg
        self.owner = owner
        self.epoch = 0
        self.held = False
        self.released = False
        self.ending = anyio.Event()

    def __str__(self) -> str:
        leg = "" if self.leg is None else f":{self.leg}"
        return f"lease {self.role}{leg} of {self.partition}"

    async def _run(self, verb: str) -> tuple[bool, int]:
        answer = await ACQUIRE.by(self._client, [self.key], (verb, self.owner, self._ttl_ms, self.epoch))
        return bool(answer[0]), int(answer[1])

    async def take(self) -> bool:
        """Try to become the owner."""
        async with self._lock:
            self.held, self.epoch = await self._run("take")
            self.released = False
        return self.held

    async def renew(self) -> bool:
        """Prolong it; False when it is another's by now, or was released."""
        async with self._lock:
            if self.released:
                return False  # its last renewal waited for the lock: it must not come back to life
            held, epoch = await self._run("renew")
            if held and epoch < self.epoch:
                # A failover took our lease's last change back: what we write now must be above it.
                held, epoch = await self._run("force")
            self._learn(held, epoch)
        return self.held

    async def force(self) -> None:
        """Take a new epoch, after a rollback.

        Raises:
            Fenced: The lease is another's.
        """
        async with self._lock:
            self._learn(*await self._run("force"))
        if not self.held:
            raise Fenced(f"{self} is another's")

    async def refenced(self, used: int) -> None:
        """Return when what was refused under the epoch ``used`` may be tried again, under the present one.

        Raises:
            Fenced: The lease is another's.
        """
        if (self.held and self.epoch != used) or await self.renew():
            return
        raise Fenced(f"{self} is another's")

    async def release(self) -> None:
        """Give it up, so that another can take it at once."""
        async with self._lock:
            await self._run("release")
            self.held, self.released = False, True

    def _learn(self, held: bool, epoch: int) -> None:
        self.held = held
        if held:
            self.epoch = max(self.epoch, epoch)


Work = Callable[[Lease], Awaitable[None]]


async def living(
    hot: Hot, keys: Keys, partition: Partition, role: str, legs: Iterable[str]
) -> tuple[int, list[str]]:
    """Return Redis' time in ns and those of ``legs`` whose lease is alive by it."""
    names = list(legs)
    (seconds, micros), *tills = await hot.pipeline(
        [("TIME",), *(("HGET", keys.lease(partition, role, leg), "until") for leg in names)]
    )
    now_us = int(seconds) * 1_000_000 + int(micros)
    alive = [leg for leg, till in zip(names, tills, strict=True) if int(till or 0) * 1000 > now_us]
    return now_us * 1000, alive


async def keep(actor: Holder, wanted: Sequence[Wanted], work: Work, *, lease_role: str) -> None:
    """Hold a fair share of ``wanted`` and run ``work`` for each lease held, until the actor stops.

    ``work`` is cancelled when its lease is lost. When ``lease.ending`` is set it should return by
    itself within two seconds. It may return early or raise ``Fenced``: the lease is sought again. Any
    other error ends the actor.

    Args:
        actor: Whose instance, settings and stop.
        wanted: Partitions and legs (None: the role has none), the same for every instance.
        work: What to do with a lease.
        lease_role: Names the lease keys.

    Raises:
        RedisUnusable: At the start.
    """
    # A renewal that gets no answer is tried again while the lease still lasts; busy loops need a second.
    timeout_s = max(1.0, actor.settings.streams.lease_ttl_s / 2)
    client = await connect(actor.settings, actor.role, timeout_s=timeout_s)
    try:
        await _Keeper(actor, client, wanted, work, lease_role).run()
    finally:
        with anyio.CancelScope(shield=True):
            await client.aclose()


class _Held:
    """A lease and the task that works under it."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()


class _Keeper:
    """Renews what is held, seeks what is free up to the fair share, sheds what is above it."""

    def __init__(
        self, actor: Holder, client: Redis, wanted: Sequence[Wanted], work: Work, lease_role: str
    ) -> None:
        self._actor = actor
        self._client = client
        self._wanted = list(wanted)
        self._work = work
        self._role = lease_role
        self._ttl_s = actor.settings.streams.lease_ttl_s
        self._held: dict[Wanted, _Held] = {}
        self._free_since: dict[Wanted, float] = {}
        self._members = [actor.instance]
        self._shed_at = 0.0
        self._surplus_since: float | None = None

    async def run(self) -> None:
        async with anyio.create_task_group() as tg:
            # Known to each other before anything is taken: two that start together share at once.
            await tg.start(self._beat_forever)
            tg.start_soon(self._seek_forever, tg)
            await self._actor.stopping.wait()
            await self._drain()
            tg.cancel_scope.cancel()
        with anyio.move_on_after(0.5, shield=True):
            await self._leave()

    # ------------------------------------------------------------------------------------ renewal

    async def _renew_forever(self, held: _Held) -> None:
        """Prolong one lease until its work is over.

        Each by itself: an answer that takes long, or a server of a cluster that is away, costs no other
        lease, and with many of them on a distant Redis none runs out while the rest have their turn.
        """
        began = anyio.current_time()  # it was just taken
        while True:
            await anyio.sleep(max(0.0, began + self._ttl_s / 3 - anyio.current_time()))
            if held.done.is_set():
                return
            began = anyio.current_time()
            try:
                if not await held.lease.renew() and not held.lease.released:
                    self._lose(held)
                    return
            except FAULTS as e:
                if not is_passing(e):
                    raise
                log.warning("lease_not_renewed", role=self._actor.role, reason=str(e))
                began = anyio.current_time() - self._ttl_s / 3 + _AGAIN_S

    async def _beat_forever(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        begun = False
        while True:
            began = anyio.current_time()
            try:
                await self._beat()
            except FAULTS as e:
                if not is_passing(e):
                    raise
                log.warning("member_not_told", role=self._actor.role, reason=str(e))
                began = anyio.current_time() - self._ttl_s / 3 + _AGAIN_S
            if not begun:
                task_status.started()
                begun = True
            await anyio.sleep(max(0.0, began + self._ttl_s / 3 - anyio.current_time()))

    def _lose(self, held: _Held) -> None:
        log.warning("lease_lost", role=self._role, partition=str(held.lease.partition), leg=held.lease.leg)
        self._count(held.lease, "lost")
        held.scope.cancel()

    async def _beat(self) -> None:
        """Say that this instance lives, and learn which others do."""
        actor, client = self._actor, cast("Any", self._client)
        now = await server_ms(self._client)
        me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "metrics": actor.metrics_address,
            "config": _digest(actor.settings),
            "until": now + int(self._ttl_s * 1000),
        }
        name = actor.keys.members(actor.role)
        await client.hset(name, actor.instance, msgspec.json.encode(me))
        found: dict[bytes, bytes] = await client.hgetall(name)
        until = {
            instance.decode(): int(msgspec.json.decode(text)["until"]) for instance, text in found.items()
        }
        self._members = sorted(instance for instance, till in until.items() if till > now)
        dead = [instance for instance, till in until.items() if till < now - _FORGET_MEMBER_MS]
        if dead:
            await client.hdel(name, *dead)

    # ------------------------------------------------------------------------------------ seeking

    @property
    def _share(self) -> int:
        return -(-len(self._wanted) // max(1, len(self._members)))

    async def _seek_forever(self, tg: TaskGroup) -> None:
        while not self._actor.stopping.is_set():
            try:
                await self._seek(tg)
                self._shed()
            except FAULTS as e:
                if not is_passing(e):
                    raise
            await anyio.sleep(min(_SEEK_S, self._ttl_s / 3))

    async def _seek(self, tg: TaskGroup) -> None:
        missing = [item for item in self._by_rank() if item not in self._held]
        if not missing:
            return
        for item in await self._free(missing):
            if self._actor.stopping.is_set():
                return
            if self._may_take(item):
                lease = self._lease(item)
                if await lease.take():
                    self._begin(tg, item, lease)

    def _by_rank(self) -> list[Wanted]:
        """Return what is wanted, each instance beginning elsewhere, so that they seldom collide."""
        if self._actor.instance not in self._members:
            return self._wanted
        at = self._members.index(self._actor.instance) * self._share
        return self._wanted[at:] + self._wanted[:at]

    async def _free(self, items: Sequence[Wanted]) -> list[Wanted]:
        """Return those of ``items`` that nobody holds now, and note since when."""
        client = cast("Any", self._client)
        now_ms, now = await server_ms(self._client), anyio.current_time()
        pipe = client.pipeline(transaction=False)
        for item in items:
            pipe.hget(self._actor.keys.lease(item[0], self._role, item[1]), "until")
        tills = await pipe.execute()
        free = [item for item, till in zip(items, tills, strict=True) if int(till or 0) <= now_ms]
        self._free_since = {item: self._free_since.get(item, now) for item in free}
        return free

    def _may_take(self, item: Wanted) -> bool:
        waited = anyio.current_time() - self._free_since[item]
        if len(self._held) >= self._share:
            return waited > 2 * self._ttl_s  # nobody whose share it is takes it: better I than none
        # Two legs on one instance die together: leave the second to another for a while.
        return not (len(self._members) > 1 and self._holds_sibling(item)) or waited > self._ttl_s

    def _holds_sibling(self, item: Wanted) -> bool:
        return any(other[0] == item[0] and other != item for other in self._held)

    def _lease(self, item: Wanted) -> Lease:
        actor = self._actor
        return Lease(
            self._client,
            actor.keys,
            item[0],
            role=self._role,
            leg=item[1],
            owner=actor.instance,
            ttl_s=self._ttl_s,
        )

    def _begin(self, tg: TaskGroup, item: Wanted, lease: Lease) -> None:
        held = self._held[item] = _Held(lease)
        self._count(lease, "won")
        log.info(
            "lease_won", role=self._role, partition=str(lease.partition), leg=lease.leg, epoch=lease.epoch
        )
        if self._actor.stopping.is_set():
            lease.ending.set()
        tg.start_soon(self._hold, item, held)
        tg.start_soon(self._renew_forever, held)

    async def _hold(self, item: Wanted, held: _Held) -> None:
        try:
            with held.scope:
                await self._run_work(held)
            with anyio.move_on_after(0.5, shield=True):
                await self._release(held)
            if not held.lease.ending.is_set():
                await anyio.sleep(_SEEK_S)  # work that ends at once must not spin
        finally:
            held.done.set()
            del self._held[item]

    async def _run_work(self, held: _Held) -> None:
        try:
            await self._work(held.lease)
        except* Fenced:
            held.lease.held = False
            log.warning("fenced", role=self._role, partition=str(held.lease.partition), leg=held.lease.leg)
            self._count(held.lease, "fenced")

    async def _release(self, held: _Held) -> None:
        if not held.lease.held:
            return
        try:
            await held.lease.release()
            self._count(held.lease, "released")
        except FAULTS as e:
            if not is_passing(e):
                raise
            log.warning("lease_not_released", role=self._role, partition=str(held.lease.partition))

    def _shed(self) -> None:
        """Let one lease above the fair share go, at most one a second; of two legs the second.

        A surplus has to last: whoever was killed still counts beside its successor until its time is up, and
        just then the other leg of what I hold may be the one that died.
        """
        now = anyio.current_time()
        ending = sum(held.lease.ending.is_set() for held in self._held.values())
        if len(self._held) - ending <= self._share:
            self._surplus_since = None
            return
        if self._surplus_since is None:
            self._surplus_since = now
        if now < max(self._shed_at, self._surplus_since + 2 * self._ttl_s + _SHED_S):
            return
        self._shed_at = now + _SHED_S
        staying = [item for item, held in self._held.items() if not held.lease.ending.is_set()]
        item = next((item for item in reversed(staying) if self._holds_sibling(item)), staying[-1])
        held = self._held[item]
        held.lease.ending.set()
        held.scope.deadline = now + _DRAIN_S

    # ------------------------------------------------------------------------------------ the end

    async def _drain(self) -> None:
        for held in self._held.values():
            held.lease.ending.set()
        with anyio.move_on_after(_DRAIN_S):
            for held in list(self._held.values()):
                await held.done.wait()

    async def _leave(self) -> None:
        try:
            await cast("Any", self._client).hdel(
                self._actor.keys.members(self._actor.role), self._actor.instance
            )
        except FAULTS as e:
            if not is_passing(e):
                raise

    def _count(self, lease: Lease, reason: str) -> None:
        self._actor.metrics.count(
            "tapeline_lease_changes_total", role=self._role, partition=str(lease.partition), reason=reason
        )


def _digest(settings: Settings) -> str:
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:12]
