"""What no socket brings and must be asked for again and again: open interest, trades and tickers of some."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

from actors.connector.rest import Reply
from actors.model.events import Channel
from actors.model.instruments import Instrument
from actors.venues.base import Request, Venue

_SHARE: Final = 0.5  # chosen: of the REST budget; the rest is for snapshots and what was missed
_IDLE_S: Final = 1.0


def pause_s(venue: Venue, channel: Channel, question: Request, instruments: int) -> float:
    """Return how long to wait between two questions: each instrument in its turn, within the budget.

    What several channels share of it goes by how often each is to be asked.
    """
    every_s = venue.polls[channel].every_s
    part = _SHARE / sum(every_s / each.every_s for each in venue.polls.values())
    return max(every_s / instruments, 60 * question.weight / (part * venue.limits.weight_per_minute))


async def poll(
    venue: Venue,
    channel: Channel,
    fetch: Callable[[Request], Awaitable[Reply | None]],
    write: Callable[[Request, Reply], object],
    wanted: Callable[[Channel], Sequence[Instrument]],
) -> None:
    """Ask for the ``channel`` of each ``wanted`` instrument in turn, until cancelled.

    An answer of whatever status is written; the next turn asks again.
    """
    each = venue.polls[channel]
    answered: set[str] = set()  # the last time, and well
    while True:
        turn = wanted(channel)
        answered.intersection_update(instrument.symbol for instrument in turn)
        for instrument in turn:
            ask = each.ask if each.catch_up is None or instrument.symbol in answered else each.catch_up
            question = ask(instrument)
            reply = await fetch(question)
            if reply is not None:
                write(question, reply)
            if reply is not None and reply.status == 200:
                answered.add(instrument.symbol)
            else:
                answered.discard(instrument.symbol)
            await anyio.sleep(pause_s(venue, channel, question, len(turn)))
        if not turn:
            await anyio.sleep(_IDLE_S)
