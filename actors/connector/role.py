"""The connector as an actor: one listing, one REST session and one budget a venue, a leg a lease."""

from contextlib import AsyncExitStack
from typing import Final, NamedTuple

import anyio

from actors.config import Settings
from actors.connector.clock import Clock
from actors.connector.leg import Leg
from actors.connector.links import Count, Side
from actors.connector.listing import Listing
from actors.connector.planning import endpoints_of
from actors.connector.rest import Rest
from actors.connector.sink import Room
from actors.runtime.lifecycle import Actor
from actors.streams.client import connect
from actors.streams.keys import Partition, legs, partitions
from actors.streams.lease import Lease, keep
from actors.streams.limit import Limit
from actors.venues import VENUES
from actors.venues.base import Endpoints

OVERLAP_S: Final = 5.0  # chosen: a new book is fetched and joined within two; trades are merged by id
CARRY_S: Final = 30.0  # chosen: venues give within seconds what they have
ROOM_BYTES: Final = 64 * 1024 * 1024  # chosen: half a minute of a busy venue while Redis is away


class _Way(NamedTuple):
    """How this process reaches one venue."""

    side: Side
    endpoints: Endpoints
    rest: Rest
    listing: Listing


def wanted(settings: Settings) -> list[tuple[Partition, str | None]]:
    """Return every partition with each of its legs."""
    return [(partition, leg) for partition in partitions(settings) for leg in legs(settings, partition.venue)]


async def run(actor: Actor) -> None:
    """Connect to the venues and write what they say into ``raw``, until the actor stops."""
    settings = actor.settings
    client = await connect(settings, actor.role)
    clock, room = Clock(), Room(ROOM_BYTES)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        ways: dict[str, _Way] = {}
        for name, chosen in settings.venues.items():
            if not chosen.enabled:
                continue
            venue = VENUES[name]
            endpoints = endpoints_of(venue, chosen)
            limit = Limit(client, actor.keys, name, settings.egress)
            rest = Rest(venue, endpoints, limit, actor.metrics)
            stack.push_async_callback(rest.aclose)
            count = Count(name, actor.metrics)
            side = Side(venue, limit, actor.metrics, clock, room, count, rest, OVERLAP_S, CARRY_S)
            listing = Listing(venue, rest, client, actor.keys, actor.metrics, symbols=chosen.symbols)
            ways[name] = _Way(side, endpoints, rest, listing)

        async def work(lease: Lease) -> None:
            way = ways[lease.partition.venue]
            leg = Leg(
                lease,
                settings=settings,
                keys=actor.keys,
                side=way.side,
                endpoints=way.endpoints,
                rest=way.rest,
                listing=way.listing,
            )
            await leg.run()

        async with anyio.create_task_group() as tg:
            for way in ways.values():
                tg.start_soon(way.listing.run)
            await keep(actor, wanted(settings), work, lease_role="connector")
            tg.cancel_scope.cancel()
