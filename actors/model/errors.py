"""Errors of the model.

::

    Unparseable    count it, put the frame in ``dead``, go on with the next
    Foreign        the same; nothing is lost of what it does not name
"""


class Unparseable(ValueError):
    """A frame, body or line that does not mean what its channel promises. Says what and where.

    Attributes:
        channel: What alone may be lost with it, None where that is not known.
    """

    def __init__(self, reason: str, channel: str | None = None) -> None:
        super().__init__(reason)
        self.channel = channel


class Foreign(Unparseable):
    """A frame that is well made, of an instrument that its connection does not know."""
