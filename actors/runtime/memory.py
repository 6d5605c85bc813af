"""How the C library keeps the memory that this process frees."""

import ctypes
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1  # parameters of mallopt, from glibc's malloc.h
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_MIB: Final = 1 << 20


def keep_freed() -> None:
    """Let freed blocks stay with the process instead of going back to the kernel and coming again, zeroed.

    A stage reads and commits in blocks of 64 KiB to 1 MiB, hundreds a second. Measured at saturation
    (CPU of connector and normalizer, six alternating runs): 7 to 11 % less. Costs at most 16 MiB of
    resident memory. Without effect where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 16 * _MIB)
        mallopt(_MMAP_THRESHOLD, 4 * _MIB)
        mallopt(_TOP_PAD, _MIB)
