"""A stage for tests: reads ``raw``, writes running sums to ``events``. Also a program, to be killed.

``python toy.py URL TTL_S [PACE_S]``; the input lines are ``<recv> - f <word>``:
``many <n>`` says n lines, ``big`` says 100 kB, ``quiet`` nothing, ``bad`` raises for ever, else one line.
"""

import json
import sys
import time
from typing import ClassVar

from actors.config import RedisSettings, Settings, StreamSettings, VenueSettings
from actors.runtime import lifecycle
from actors.runtime.lifecycle import Actor
from actors.runtime.loop import run_stage
from actors.runtime.stage import Stage
from actors.stages.fold import JumpCause, Output
from actors.streams.keys import Partition

PARTITION = Partition("binance", 0)


class Toy:
    FORMAT: ClassVar[int] = 1
    pace_s: ClassVar[float] = 0.0

    def __init__(self, _partition: Partition, state: bytes | None) -> None:
        kept = json.loads(state) if state else {"sum": 0, "said": 0, "seen": 0}
        self.sum, self.said, self.seen = kept["sum"], kept["said"], kept["seen"]

    def resume(self, counts: dict[str, int]) -> None:
        self.said = counts["events"]

    def _say(self, text: str, out: Output) -> None:
        self.said += 1
        out.lines["events"].append(f"{self.said} {text}".encode())

    def fold(self, k: int, line: bytes, out: Output) -> None:
        if self.pace_s:
            time.sleep(self.pace_s)
        word, _, rest = line.split(b" ", 3)[3].partition(b" ")
        if word == b"bad":
            self.sum = -1  # half done: the loop must drop this
            raise ValueError("bad word")
        self.sum += k
        self.seen += 1
        match word:
            case b"quiet":
                return
            case b"many":
                for n in range(int(rest)):
                    self._say(f"{k}.{n} {self.sum}", out)
            case b"big":
                self._say(f"{k} {self.sum} " + "x" * 100_000, out)
            case _:
                self._say(f"{k} {self.sum} {word.decode()}", out)
        out.keys["top", "BTC-USDT"] = str(self.sum).encode()
        if k % 50 == 0:
            out.lines["control"].append(b'{"id":"toy/%d"}' % k)

    def jump(self, first: int, last: int, cause: JumpCause, out: Output) -> None:
        self._say(f"jump {first} {last} {cause}", out)

    def dump(self) -> bytes:
        return json.dumps({"sum": self.sum, "said": self.said, "seen": self.seen}).encode()


STAGE = Stage("toy", "raw", ("events", "control"), Toy)


async def run(actor: Actor) -> None:
    await run_stage(actor, STAGE)


def settings(url: str, ttl_s: float) -> Settings:
    return Settings(
        mode="demo",
        redis=RedisSettings(url=url),
        streams=StreamSettings(lease_ttl_s=ttl_s),
        venues={"binance": VenueSettings(symbols=["BTC-USDT"])},
    )


if __name__ == "__main__":
    Toy.pace_s = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    sys.exit(lifecycle.main("toy", run, settings(sys.argv[1], float(sys.argv[2]))))
