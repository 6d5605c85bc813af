"""The fold from ``raw`` to ``events``, ``control`` and ``dead``.

``fold`` reads lines and frames. ``connections`` is what they do to what is kept of connections
(``subscriptions``), told by ``statuses``, seen to by ``repair``. ``trades`` lets each pass once, by ``marks``
or ``recent``. ``answers`` are REST's, ``instruments`` what the venue lists. All say it through ``sink``.
"""

from actors.stages.normalize.fold import ROLE, Normalize

__all__ = ["ROLE", "Normalize"]
