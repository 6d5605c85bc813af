"""What no socket brings and must be asked for again and again: open interest, of some venues."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

from actors.connector.rest import Reply
from actors.model.instruments import Instrument
from actors.venues.base import Request, Venue

_SHARE: Final = 0.5  # chosen: of the REST budget; the rest is for snapshots and what was missed
_IDLE_S: Final = 1.0


def pause_s(venue: Venue, question: Request, instruments: int) -> float:
    """Return how long to wait between two questions: each instrument in its turn, within the budget."""
    least = 60 * question.weight / (_SHARE * venue.limits.weight_per_minute)
    return max(venue.open_interest_s / instruments, least)


async def poll(
    venue: Venue,
    ask: Callable[[Instrument], Request],
    fetch: Callable[[Request], Awaitable[Reply | None]],
    write: Callable[[Request, Reply], object],
    wanted: Callable[[], Sequence[Instrument]],
) -> None:
    """Ask for the open interest of each ``wanted`` instrument in turn, until cancelled.

    An answer of whatever status is written; the next turn asks again.
    """
    while True:
        turn = wanted()
        for instrument in turn:
            question = ask(instrument)
            reply = await fetch(question)
            if reply is not None:
                write(question, reply)
            await anyio.sleep(pause_s(venue, question, len(turn)))
        if not turn:
            await anyio.sleep(_IDLE_S)
