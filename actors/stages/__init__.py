"""The pure folds: ``raw`` to events (``normalize``), events to books (``bookbuild``) and flow (``cvd``).

Same input, same (k, text) output. What they share: the contract (``fold``), the forms of what goes in and out
(``raw``, ``control``, ``dead``), and a book's levels (``book``).
"""
