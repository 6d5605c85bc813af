"""``make bench-peers``: the same frames through cryptofeed and through Tapeline, CPU a frame of either.

What is measured: from a frame in the memory of the process that holds the venue's socket to events that
are in Redis, drained; CPU of the client processes only, the server and the sockets not counted.

* cryptofeed 2.4.1, in an environment of its own: its ``Binance`` feed's message handler with its Redis
  stream backend (trades, ticker, book) on redis-py and hiredis, on uvloop as its own handler runs it. It
  keeps the books, writes their changes and each thousandth time the whole one; one process; what waits
  for Redis waits in its memory.
* Tapeline: the connector's ``Link.frame`` to ``raw``, then the normalizer, a real actor with its lease,
  ticks, metrics and checkpoints; two processes, each frame durable twice. It keeps no book there; the
  second figure adds the bookbuilder, which verifies books and writes changes, snapshots and best bid and
  offer.

Each pass over the frames is one connection's life with a snapshot of its own, its ids moved so that none
comes twice. Either side is given frames in bursts, as they come out of a socket's buffer.

Then, venue by venue, only what is decoded and kept (``handlers``): the same frames in memory through
cryptofeed's message handler with callbacks that do nothing, and through our ``decode`` and the alignment
machine that keeps and proves the book. CPU of one pass, its snapshots included, in alternating pairs. Both
must have told the same trades and hold the same books as deep as ours are; what differs is told. Frames are
recorded ones where there are enough, else simulated.

cryptofeed is timed twice. With its ``cross_check``: both sides then know after each change whether the book
is crossed (ours also proves sequences and checksums): ``ratio``. And as it comes (``ratio_bare``): changes go
into a map in C (``order_book``), and nobody puts it in order, since no callback looks at it. Of ours a third
is the book, in Python; JSON is a tenth, the rest is finding out what a frame is, the check of each price and
size as text, and the event made of it. It stays Python, which runs wherever Python and make are: compiled
to C (the book by mypyc, decode by Cython) ours took 0.51 to 0.76 of the second measure, as it is 0.54 to
0.90. Coinbase's protocol of today is that of cryptofeed 2.3.2, which is in an environment of its own.
"""
