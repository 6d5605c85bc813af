"""The benchmark's input: generated frames in one file, so that each process reads them for itself."""

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from actors.simulator.generate import Generated, generate

# Books of less than 1,000 levels: a tape runs hours of market in seconds, and a larger one would be at the
# end of what its snapshot knows before a tick, of this clock, lets it ask for another.
SYMBOLS: Final = ("ETH-USDT", "SOL-USDT", "XRP-USDT")


class Tape(NamedTuple):
    """Where the frames lie (one a line), and what goes with them (``Generated`` without its frames)."""

    frames: Path
    beside: Path

    def load(self) -> Generated:
        """Read it back."""
        beside = msgspec.msgpack.decode(self.beside.read_bytes(), type=_Beside)
        frames = self.frames.read_bytes().split(b"\n")
        return Generated(frames, beside.exchange_info, beside.snapshots, {}, beside.later)


class _Beside(msgspec.Struct):
    exchange_info: bytes
    snapshots: dict[str, bytes]
    later: list[tuple[int, str, bytes]]


def record(folder: Path, seed: int, n: int) -> Tape:
    """Generate ``n`` frames into ``folder``.

    The mix: for each symbol ten frames of trades and L1, about two in five of them trades, then one of
    depth with what changed meanwhile (see ``simulator.generate``).
    """
    made = generate(seed, n, SYMBOLS)
    tape = Tape(folder / "frames", folder / "beside")
    tape.frames.write_bytes(b"\n".join(made.frames))
    tape.beside.write_bytes(msgspec.msgpack.encode(_Beside(made.exchange_info, made.snapshots, made.later)))
    return tape
