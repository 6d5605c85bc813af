"""Lines of ``raw`` as two legs of a Binance connector would write them, from a list of choices.

The fold itself answers: what it asks for (backfills, snapshots, subscriptions) can be served, refused or
left lying by later choices. Run as a program it prints a digest of what the fold says of a seeded input.
"""

import hashlib
import json
import random
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from actors.model.instruments import Instrument, UnknownInstrument
from actors.stages import raw
from actors.stages.fold import Output
from actors.stages.normalize import Normalize
from actors.venues import binance
from actors.venues.base import Answer

SYMBOLS = {"BTC-USDT": "BTCUSDT", "ETH-USDT": "ETHUSDT"}
INSTRUMENTS = {s: Instrument(s, native, *s.split("-")) for s, native in SYMBOLS.items()}
STREAMS = ("events", "control", "dead")
# Binance's words with timings of our own, which these inputs reach.
VENUE = replace(binance.VENUE, silence_s={"ticker": 30.0, "book": 60.0, "l1": 60.0}, first_s={}, quiet_s=None)
MS = 1_000_000
START = 1_700_000_000_000
Choice = tuple[int, int, int]
CHOICES = 24  # kinds of choice
_ENDS = (0, 2, 3, 4)  # open and close connections: seldom, or nothing ever falls silent


class Script:
    """Writes lines, folding them as they come to learn what is asked for."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.fold = Normalize(VENUE, "binance.0")
        self.out = Output(STREAMS)
        self.now = START
        self.conns: dict[str, dict[str, int]] = {}  # open: next trade id of each symbol
        self.heads = dict.fromkeys(SYMBOLS, 1000)
        self.sent: list[tuple[str, int]] = []
        self.opened = 0
        self.served = 0
        for known in INSTRUMENTS.values():
            self.say("a.*", "i", known)
        for leg in "ab":
            self.open(leg)

    def say(self, conn: str, kind: str, payload: object, recv: int | None = None) -> None:
        text = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        line = raw.line((self.now if recv is None else recv) * MS, conn, kind, text)
        self.lines.append(line)
        self.fold.fold(len(self.lines), line, self.out)

    def frame(self, conn: str, stream: str, data: dict[str, Any]) -> None:
        self.say(conn, "f", json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode())

    def open(self, leg: str) -> None:
        self.opened += 1
        conn = f"{leg}.{self.opened}"
        self.conns[conn] = {}
        self.say(conn, "o", b"ws://x/stream")
        for symbol in SYMBOLS:
            self.subscribe(conn, symbol)

    def subscribe(self, conn: str, symbol: str) -> None:
        items = [(channel, symbol) for channel in binance.STREAMS]
        for sub in binance.subscribe(items, INSTRUMENTS, len(self.sent) + 1):
            self.sent.append((conn, sub.id or 0))
            self.say(conn, "s", sub)

    def trade(self, conn: str, symbol: str, skip: int) -> None:
        ids = self.conns[conn]
        number = ids.get(symbol, self.heads[symbol]) + skip
        ids[symbol] = number + 1
        self.heads[symbol] = max(self.heads[symbol], number)
        self.frame(conn, f"{SYMBOLS[symbol].lower()}@trade", trade(symbol, number))

    def serve(self, how: int) -> None:
        """Answer, in one way or another, the oldest request that has not been."""
        requests = [json.loads(line) for line in self.out.lines["control"]]
        if self.served >= len(requests):
            return
        request = requests[self.served]
        self.served += 1
        symbol, conn = request.get("symbol"), request.get("conn")
        if request["op"] in ("snapshot", "backfill"):
            self.answer(request, how)
        elif request["op"] == "resubscribe" and conn in self.conns:
            for sub in binance.unsubscribe([(request["channel"], symbol)], INSTRUMENTS, len(self.sent) + 1):
                self.sent.append((conn, sub.id or 0))
                self.say(conn, "s", sub)
        elif request["op"] == "subscribe" and conn in self.conns:
            self.subscribe(conn, symbol)
        elif request["op"] == "reconnect" and conn in self.conns:
            self.open(conn[0])

    def answer(self, request: dict[str, Any], how: int) -> None:
        instrument = INSTRUMENTS[request["symbol"]]
        status, body = 200, "[]"
        if request["op"] == "snapshot":
            rest = binance.snapshot(instrument)
            body = '{"lastUpdateId":7,"bids":[["1.0","2.0"]],"asks":[]}'
        else:
            rest = binance.backfill(instrument, request["first"], request["last"])
            first, last = int(request["first"]), min(int(request["last"]), int(request["first"]) + 50)
            ids = list(range(first, last + 1))
            if how % 4 == 0:
                ids = ids[: len(ids) // 2]
            body = json.dumps([past(number) for number in ids if how % 4 != 1])
        if how % 8 >= 5:
            status, body = ((429, "slow down"), (0, "no answer"), (404, "none"))[how % 8 - 5]
        answer = Answer(rest, status, body, request["id"], request.get("conn"))
        self.say("a.rest", "h", answer)

    def do(self, choice: Choice) -> None:  # noqa: C901, PLR0912 - one table of choices
        """Turn one choice into lines."""
        what, which, how = choice
        self.now += how * 7
        symbol = tuple(SYMBOLS)[which % 2]
        leg = "ab"[which // 2 % 2]
        mine = [conn for conn in self.conns if conn.startswith(leg)]
        conn = mine[which % len(mine)] if mine else None
        match what:
            case 0:
                self.say("-", "k", raw.LegsAlive([["a", "b"], ["a"], ["b"], []][which % 4]))
            case 1:
                self.say("-", "k", raw.LegsAlive(["a", "b"]), self.now)
                self.now += how * 500
            case 2:
                self.open(leg)
            case 3 if conn is not None:
                del self.conns[conn]
                self.say(conn, "x", raw.Closed(1006, "gone"))
            case 4:
                self.conns = {c: ids for c, ids in self.conns.items() if c[0] != leg}
                self.say(f"{leg}.*", "x", raw.Closed(None, "new owner"))
            case 5:
                self.say(f"{leg}.failed{which}", "x", raw.Closed(503, "no"))
            case 6:
                for known in INSTRUMENTS.values():
                    self.say(f"{leg}.rest", "i", known)
                gone = "BTC-USTD" if how % 3 else symbol  # the latter until it is listed again
                self.say(f"{leg}.rest", "i", UnknownInstrument(gone, ["BTC-USDT"]))
            case 7 if self.sent:
                asked = self.sent[which % len(self.sent)]
                self.say(asked[0], "f", b'{"result":null,"id":%d}' % asked[1])
            case 8 if self.sent:
                asked = self.sent[which % len(self.sent)]
                self.say(asked[0], "f", b'{"code":2,"msg":"no","id":%d}' % asked[1])
            case 9 if conn is not None:
                junk = (b"{", b'{"stream":"btcusdt@trade","data":{"e":"trade"}}', b"null", b'{"x":1}')
                self.say(conn, "f", junk[how % 4])
            case 10 if conn is not None:
                self.say(conn, "f", b'{"e":"serverShutdown","E":1770123456789}')
            case 11 if conn is not None:
                data = {"e": "depthUpdate", "E": self.now, "s": SYMBOLS[symbol], "U": 1, "u": which + 1}
                levels = {"b": [["1.0", "2.0"]], "a": []}
                self.frame(conn, f"{SYMBOLS[symbol].lower()}@depth@100ms", {**data, **levels})
            case 12 if conn is not None:
                l1 = {"u": which, "s": SYMBOLS[symbol], "b": "1.0", "B": "1", "a": "2.0", "A": "0.5"}
                self.frame(conn, f"{SYMBOLS[symbol].lower()}@bookTicker", l1)
            case 13 | 14:
                self.serve(how)
            case 15 if conn is not None:
                self.say(conn, "b", b"eyJlIjoic2VydmVyU2h1dGRvd24iLCJFIjoxfQ==")
            case 16 if conn is not None:
                self.frame(conn, "x@trade", trade(symbol, max(0, self.heads[symbol] - how)))
            case _ if conn is not None:
                self.trade(conn, symbol, how if what == 17 else 0)
            case _:
                pass


def trade(symbol: str, number: int) -> dict[str, Any]:
    """Return the payload of one trade; its time follows from its id."""
    fixed = {"e": "trade", "s": SYMBOLS[symbol], "p": "1.50", "q": "2", "m": bool(number % 2)}
    return {**fixed, "t": number, "T": START + number}


def past(number: int) -> dict[str, Any]:
    """Return the row of one past trade."""
    return {"id": number, "price": "1.50", "qty": "2", "time": START + number, "isBuyerMaker": True}


def write(choices: Sequence[Choice]) -> Script:
    """Return what ``choices`` make: the lines, and what the fold said of them."""
    script = Script()
    for choice in choices:
        script.do(choice)
    return script


def seeded(seed: int, number: int) -> list[Choice]:
    """Return ``number`` choices of a seed, in phases that each favour a few kinds: calm and storm alike."""
    rng = random.Random(seed)
    choices: list[Choice] = []
    while len(choices) < number:
        weights = [rng.random() ** 8 * (0.05 if what in _ENDS else 1) for what in range(CHOICES)]
        kinds = rng.choices(range(CHOICES), weights, k=rng.randrange(20, 200))
        choices += [(what, rng.randrange(16), min(int(rng.expovariate(0.3)), 40)) for what in kinds]
    return choices[:number]


if __name__ == "__main__":
    done = write(seeded(int(sys.argv[1]), int(sys.argv[2])))
    digest = hashlib.sha256(done.fold.dump())
    for stream in STREAMS:
        digest.update(b"\n".join(done.out.lines[stream]))
    sys.stdout.write(f"{len(done.lines)} {digest.hexdigest()}\n")
