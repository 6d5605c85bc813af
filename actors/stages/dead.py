"""Records that meant nothing to a stage, the documents of the ``dead`` stream."""

from typing import Final

import msgspec

_MOST_RECORD: Final = 64 * 1024  # chosen: more of a bad record helps nobody
_encode = msgspec.json.encode


def letter(reason: str, stage: str, partition: str, identity: int | str, record: bytes) -> bytes:
    """Return a document of ``dead``; ``identity``: ``k`` or cursor of the event that ``record`` was."""
    text = record[:_MOST_RECORD].decode(errors="replace")
    return _encode({"reason": reason, "stage": stage, "partition": partition, "id": identity, "record": text})
