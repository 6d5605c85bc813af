"""The fold from ``events`` to ``books`` and ``control``.

``fold`` reads events. A symbol has ``candidates``, each a book that ``sync`` puts together: ``alignment``
says what touches what and what proves it, ``buffer`` keeps what came before the snapshot, ``asking`` when to
ask. ``publish`` says what changes for readers, ``latest`` the latest values; ``symbol`` is what they all
work on.
"""

from actors.stages.bookbuild.fold import ROLE, STATES, Bookbuild

__all__ = ["ROLE", "STATES", "Bookbuild"]
