"""What no socket brings and must be asked for again and again: open interest, trades and tickers of some."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

import anyio

from actors.connector.rest import Reply
from actors.model.events import Channel
from actors.model.instruments import Instrument
from actors.venues.base import Request, Venue

_SHARE: Final = 0.5  # chosen: of the REST budget; the rest is for snapshots and what was missed
_MOST_OUT: Final = 8  # chosen: questions of one channel; answers may take 0.8 s where 10 a second are asked
_IDLE_S: Final = 1.0


def pause_s(
    venue: Venue,
    channel: Channel,
    question: Request,
    instruments: int,
    asked: Collection[Channel],
    *,
    shards: int = 1,
) -> float:
    """Return how long to wait between two questions: each instrument in its turn, within the budget.

    What several channels share of it goes by how often each is to be asked. ``asked``: those that anything is
    wanted of. ``shards``: the partitions of the venue, each of which polls for itself.
    """
    every_s = venue.polls[channel].every_s
    sharing = [each for name, each in venue.polls.items() if name == channel or name in asked]
    part = _SHARE / shards / sum(every_s / each.every_s for each in sharing)
    return max(every_s / instruments, 60 * question.weight / (part * venue.limits.weight_per_minute))


async def poll(
    venue: Venue,
    channel: Channel,
    fetch: Callable[[Request], Awaitable[Reply | None]],
    write: Callable[[Request, Reply], object],
    wanted: Callable[[Channel], Sequence[Instrument]],
    *,
    shards: int = 1,
) -> None:
    """Ask for the ``channel`` of each ``wanted`` instrument in turn, until cancelled.

    An answer of whatever status is written; the next turn asks again. Several questions may be out, so that
    slow answers do not make the turn longer; of one instrument only one, so that its answers are in order.
    """
    each = venue.polls[channel]
    answered: set[str] = set()  # the last time, and well
    out: set[str] = set()
    room = anyio.Semaphore(_MOST_OUT)

    async def ask(question: Request, symbol: str) -> None:
        reply = await fetch(question)
        if reply is not None:
            write(question, reply)
        if reply is not None and reply.status == 200:
            answered.add(symbol)
        else:
            answered.discard(symbol)
        out.discard(symbol)
        room.release()

    async with anyio.create_task_group() as tg:
        while True:
            turn = wanted(channel)
            asked: list[Channel] = [other for other in venue.polls if wanted(other)]
            answered.intersection_update(instrument.symbol for instrument in turn)
            for instrument in turn:
                symbol = instrument.symbol
                make = each.ask if each.catch_up is None or symbol in answered else each.catch_up
                question = make(instrument)
                if symbol not in out:
                    await room.acquire()
                    out.add(symbol)
                    tg.start_soon(ask, question, symbol)
                await anyio.sleep(pause_s(venue, channel, question, len(turn), asked, shards=shards))
            if not turn:
                await anyio.sleep(_IDLE_S)
