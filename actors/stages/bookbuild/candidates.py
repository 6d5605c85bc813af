"""The candidate books of one symbol, one of each connection: which there are, and which is published.

A candidate is born with the first delta of a connection (or the first snapshot, where the stream brings
it; or, where it does not, with the word that nothing has changed yet), lost by a fault (``sync``), silent by
``status`` ``stale``, gone by ``status`` ``down``, ``refused`` or ``unsubscribed``.
"""

from sys import maxsize
from typing import Final

from actors.model.events import Status
from actors.stages.bookbuild.alignment import Alignment
from actors.stages.bookbuild.symbol import Symbol
from actors.stages.bookbuild.sync import CONNECTION, ITEM, Sync

CANDIDATES: Final = 8  # chosen: two legs, each rotating, need four

_GONE: Final = ("down", "refused", "unsubscribed")


def begin(symbol: Symbol, alignment: Alignment, conn: str, now: int) -> Sync:
    """Begin a candidate of connection ``conn``; of too many the oldest that is not published goes."""
    if len(symbol.syncs) >= CANDIDATES:
        oldest = next(c for c, sync in symbol.syncs.items() if sync is not symbol.active)
        del symbol.syncs[oldest]
    sync = Sync(alignment, conn, now, symbol.name)
    symbol.syncs[conn] = sync
    return sync


def take_status(symbol: Symbol, alignment: Alignment, status: Status, now: int) -> bool:
    """Learn how a connection, or its subscription of the book, is; return whether that says anything."""
    syncs = symbol.syncs
    conns = [conn for conn in syncs if status.conn is None or conn == status.conn]
    if not conns:
        return False
    if status.state in _GONE:
        for conn in conns:
            del syncs[conn]
    elif status.state == "resyncing":
        for conn in conns:
            _renew(symbol, alignment, conn, now)
    elif status.state == "stale":
        for conn in conns:
            syncs[conn] = _silenced(syncs[conn], alignment, status, now)
    elif status.state == "live" and status.symbol is None:
        for conn in conns:  # it speaks, though perhaps not of this symbol: its own silence stays
            syncs[conn].silence &= ~CONNECTION
    else:
        return False
    return True


def _silenced(sync: Sync, alignment: Alignment, status: Status, now: int) -> Sync:
    """Return a book that is silent; where nothing would show what it missed meanwhile, a new one."""
    if status.symbol is not None and alignment.rule.blind:
        sync = _anew(alignment, sync, status.symbol, now)
    sync.silence |= CONNECTION if status.symbol is None else ITEM
    return sync


def _renew(symbol: Symbol, alignment: Alignment, conn: str, now: int) -> None:
    """Begin a book anew whose subscription is: what comes now is another stream, it was fine or not."""
    sync = symbol.syncs[conn]
    if sync.joined and not sync.silence:
        symbol.syncs[conn] = _anew(alignment, sync, symbol.name, now)


def _anew(alignment: Alignment, former: Sync, symbol: str, now: int) -> Sync:
    """Return a book that waits; where nothing would show what is not heard, for the first change, too."""
    sync = Sync(alignment, former.conn, now, symbol)
    if alignment.rule.blind:
        sync.doubt(now)
    return sync


def fetch(symbol: Symbol, alignment: Alignment, conn: str, now: int) -> Sync | None:
    """Begin the book of a subscription that was granted and says nothing; None: it is at work already."""
    former = symbol.syncs.get(conn)
    if former is None:
        return begin(symbol, alignment, conn, now)
    if not former.doubted:
        return None
    sync = symbol.syncs[conn] = Sync(alignment, conn, now, symbol.name)
    sync.silence = former.silence
    return sync


def choose(symbol: Symbol) -> Sync | None:
    """Return the candidate to publish: the one that is, as long as it can be shown."""
    active = symbol.active
    if active is not None and symbol.syncs.get(active.conn) is active and _can_be_shown(symbol, active):
        return active
    best: Sync | None = None
    rank = (False, -maxsize)
    for sync in symbol.syncs.values():
        if _can_be_shown(symbol, sync):
            # The one that is furthest, so that a switch goes back in time as little as can be.
            here = (sync.crossed_since is None, -maxsize if sync.seq is None else sync.seq)
            if best is None or here > rank:
                best, rank = sync, here
    return best


def _can_be_shown(symbol: Symbol, sync: Sync) -> bool:
    return sync.joined and not sync.silence and (sync.unit == "base" or symbol.contract is not None)
