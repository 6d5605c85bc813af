"""What a command did, run in this process."""

from collections.abc import Callable
from typing import NamedTuple


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Tapeline = Callable[..., Done]
