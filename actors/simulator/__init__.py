"""Local venues that a client cannot tell from real ones, over one market whose truth is known."""
