"""When a book's connection is asked for a snapshot (or a new subscription, where the stream brings it)."""

from typing import Final

from actors.model.events import SECOND

ANSWER_S: Final = 4  # chosen: a request unanswered for so long is made again, then after twice as long
ANSWER_MOST_S: Final = 60
AGAIN_S: Final = 1  # binance.md 5.3: wait 0.5-1 s before asking again for a snapshot that was too old
AGAIN_MOST_S: Final = 30
CALM_S: Final = 60  # chosen: a book joined for so long may ask at once when it is lost again


class Asking:
    """The requests of one book. Time is fold time, ns.

    Attributes:
        due: When to ask, None: nothing to ask.
        attempts: Requests since the book was last well for a while.
        reason: What the next one is for.
    """

    __slots__ = ("attempts", "due", "reason")

    def __init__(self, due: int | None, attempts: int = 0, reason: str = "first snapshot") -> None:
        self.due = due
        self.attempts = attempts
        self.reason = reason

    def ask(self, now: int) -> bool:
        """Tell whether to ask now; it then counts as asked until no answer came in a growing while."""
        if self.due is None or now < self.due:
            return False
        self.attempts += 1
        self.due = now + _delay(ANSWER_S, self.attempts, ANSWER_MOST_S)
        return True

    def refresh(self, now: int, reason: str) -> None:
        """Ask anew at once, of a book that is well."""
        self.attempts = 0
        self.due, self.reason = now, reason

    def too_old(self, now: int) -> None:
        """Ask again a little later: the answer was of no use."""
        self.due, self.reason = now + self._again(), "the snapshot was older than the buffer"

    def lost(self, now: int, reason: str, joined_at: int, *, may_ask: bool) -> None:
        """Ask for another book, at once unless they are lost again and again.

        Args:
            now: Fold time.
            reason: Why it was lost.
            joined_at: When it was joined.
            may_ask: False where the stream brings another by itself.
        """
        if now - joined_at > CALM_S * SECOND:
            self.attempts = 0
        self.reason = reason
        if may_ask:
            self.due = now + (self._again() if self.attempts > 1 else 0)

    def _again(self) -> int:
        return _delay(AGAIN_S, self.attempts, AGAIN_MOST_S)


def _delay(first_s: int, attempts: int, most_s: int) -> int:
    return min(first_s << min(max(attempts - 1, 0), 16), most_s) * SECOND
