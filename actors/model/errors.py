"""Errors of the model.

::

    Unparseable    count it, put the frame in ``dead``, go on with the next
"""


class Unparseable(ValueError):
    """A frame, body or line that does not mean what its channel promises. Says what and where."""
