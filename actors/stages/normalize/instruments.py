"""What the venue lists: its instruments as events, and the refusal of symbols that it does not list."""

import re
from typing import Final

import msgspec

from actors.model.events import InstrumentEvent, Status
from actors.model.instruments import Instrument, UnknownInstrument
from actors.stages.normalize.sink import Sink

# ETHUSDT is not what a frame of METHUSDT names; an underscore may join a name to its channel (Bitstamp).
_WHOLE: Final = rb"(?<![A-Za-z0-9\x80-\xff])%b(?=[^\w-])"


class Instruments:
    """The instruments of a partition; both mappings are changed in place.

    Args:
        venue: Name of the venue.
        instruments: By native symbol.
        unknown: Symbols that the venue does not list, with what was told of them.
        sink: Where it is said.
    """

    def __init__(
        self, venue: str, instruments: dict[str, Instrument], unknown: dict[str, str], sink: Sink
    ) -> None:
        self._venue = venue
        self._instruments = instruments
        self._unknown = unknown
        self._sink = sink

    def take(self, payload: bytes) -> str | None:
        """Take an ``i`` line: an instrument is told when it is new, an unknown symbol refused.

        Returns:
            The symbol, if it is listed again.
        """
        if b'"nearest"' in payload:  # a key of the one; the other's texts cannot hold a bare quote
            self._refuse(msgspec.json.decode(payload, type=UnknownInstrument))
            return None
        instrument = msgspec.json.decode(payload, type=Instrument)
        again = self._unknown.pop(instrument.symbol, None) is not None
        if self._instruments.get(instrument.native) != instrument:
            self._tell(instrument)
        return instrument.symbol if again else None

    def _tell(self, instrument: Instrument) -> None:
        self._instruments[instrument.native] = instrument
        self._sink.event(
            InstrumentEvent(
                self._venue,
                instrument.symbol,
                None,
                self._sink.now,
                None,
                instrument.native,
                instrument.base,
                instrument.quote,
                instrument.contract_size,
                instrument.contract_kind,
                instrument.price_step,
                instrument.size_step,
            )
        )

    def named(self, frame: bytes) -> set[str]:
        """Return the symbols whose native names stand whole in ``frame``."""
        return {
            row.symbol
            for native, row in self._instruments.items()
            if (name := native.encode()) in frame and re.search(_WHOLE % re.escape(name), frame)
        }

    def _refuse(self, unknown: UnknownInstrument) -> None:
        nearest = f"; nearest: {', '.join(unknown.nearest)}" if unknown.nearest else ""
        reason = f"{self._venue} lists no {unknown.symbol}{nearest}"
        if unknown.reason is not None:
            reason = f"{self._venue} lists {unknown.symbol} in a way that means nothing: {unknown.reason}"
        if self._unknown.get(unknown.symbol) != reason:
            self._unknown[unknown.symbol] = reason
            now = self._sink.now
            self._sink.event(Status(self._venue, unknown.symbol, None, now, None, None, "refused", reason))
