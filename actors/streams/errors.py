"""Errors of the streams, and which of Redis' are passing.

::

    RedisUnusable    give up with its message: this Redis, or how it is set up, will not do
    Fenced           stop owning, never retry: another holds the lease
    Corrupt          an entry is not what its writer promises: stop, somebody else writes here

What is in ``PASSING`` heals by waiting (``MOVED`` and its like by dialling again). Whether the command
was carried out is not known: send the same append or commit again, its answer tells.
"""

from typing import Final

from redis import exceptions


class RedisUnusable(Exception):
    """This Redis cannot be used; the message says why and what to do, and holds no secret."""


class Fenced(Exception):
    """The lease is another's by now: whatever was being written is not ours to write."""


class Corrupt(Exception):
    """A stream holds what no writer of ours wrote."""


# Everything that talking to Redis can raise: redis-py's cluster errors are no RedisError.
FAULTS: Final = (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError)
PASSING: Final = (
    exceptions.ConnectionError,  # BusyLoadingError is one
    exceptions.TimeoutError,
    exceptions.ClusterError,
    exceptions.RedisClusterException,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.AskError,
    exceptions.TryAgainError,
    exceptions.MovedError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    OSError,
    TimeoutError,
)
_PASSING_CODES: Final = ("MISCONF", "NOREPLICAS", "UNBLOCKED", "BUSY ", "-OOM", "OOM ", "-MISCONF")
# In a script 6.2 puts the code inside the text: "Error running script ...: -OOM command not allowed".
_PASSING_INSIDE: Final = (" -OOM ", " -MISCONF ", " -NOREPLICAS ", " -READONLY ")


def is_passing(error: BaseException) -> bool:
    """Tell whether waiting may heal ``error``.

    A wrong password or a missing permission does not, though redis-py counts it as a connection's.
    """
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return False
    if isinstance(error, PASSING):
        return True
    if isinstance(error, exceptions.ResponseError):
        text = str(error)
        return text.startswith(_PASSING_CODES) or any(code in text for code in _PASSING_INSIDE)
    return False
