"""A journal is never torn: cut anywhere or scribbled over at its end, it opens at its last whole batch."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.master import journal as module
from actors.master.journal import Batch, Journal, batches, files, framed, sound_end
from actors.streams.keys import START, Cursor


def opened(folder: Path, **changes: Any) -> Journal:
    return Journal(folder, **{"rotate_bytes": 1 << 30, "rotate_s": 1e9, "keep_bytes": None, **changes})


def batch(first: int, n: int, epoch: int = 7) -> Batch:
    lines = [b'{"type":"trade","n":%d}' % k for k in range(first, first + n)]
    return Batch(Cursor(epoch, first - 1), Cursor(epoch, first + n - 1), lines)


def held(folder: Path) -> list[bytes]:
    return [line for path in files(folder) for _, lines, _ in batches(path.read_bytes()) for line in lines]


def test_what_is_appended_is_there_after_opening_again(tmp_path: Path):
    journal = opened(tmp_path / "a" / "b")
    assert journal.cursor is None
    journal.append([batch(1, 3), batch(4, 0), batch(4, 2)])
    journal.close()
    again = opened(tmp_path / "a" / "b")
    assert (again.cursor, again.cut) == (Cursor(7, 5), 0)
    again.append([batch(6, 1)])
    again.close()
    assert held(tmp_path / "a" / "b") == [b'{"type":"trade","n":%d}' % k for k in range(1, 7)]


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=6), data=st.data())
def test_a_file_cut_anywhere_opens_at_its_last_whole_batch(
    sizes: list[int], data: st.DataObject, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("j")
    journal = opened(folder)
    ends: list[tuple[int, Cursor, int]] = []
    first = 1
    for n in sizes:
        made = batch(first, n)
        journal.append([made])
        first += n
        ends.append((journal.size, made.last, first - 1))
    journal.close()
    (path,) = files(folder)
    header = framed(Batch(Cursor(7, 0), Cursor(7, 0), ()))
    cut = data.draw(st.integers(len(header), path.stat().st_size))
    junk = data.draw(st.binary(max_size=40))
    os.truncate(path, cut)
    with path.open("ab") as file:
        file.write(junk)
    whole = [end for end in ends if end[0] <= cut]
    again = opened(folder)
    size, cursor, n = whole[-1] if whole else (len(header), Cursor(7, 0), 0)
    # (junk may happen to be the rest of a batch that was cut: then that batch is whole)
    assert again.cursor is not None
    assert again.cursor >= cursor
    if not path.read_bytes()[size:]:
        assert (again.cursor, again.size, len(held(folder))) == (cursor, size, n)
    again.append([batch(again.cursor.k + 1, 2)])
    again.close()
    assert [int(line[20:-1]) for line in held(folder)] == [*range(1, again.cursor.k + 1)]


def test_zeros_in_the_middle_of_the_last_batch_cut_it_off(tmp_path: Path):
    journal = opened(tmp_path)
    journal.append([batch(1, 3)])
    size = journal.size
    journal.append([batch(4, 3)])
    journal.close()
    (path,) = files(tmp_path)
    with path.open("r+b") as file:  # what a machine's crash may leave of blocks that were not synced
        file.seek(size + 10)
        file.write(bytes(20))
    again = opened(tmp_path)
    assert (again.cursor, again.size) == (Cursor(7, 3), size)
    assert again.cut > 0


def test_a_batch_larger_than_the_window_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_WINDOW", 64)
    journal = opened(tmp_path)
    journal.append([batch(1, 50)])
    journal.close()
    (path,) = files(tmp_path)
    assert sound_end(path) == (path.stat().st_size, Cursor(7, 50))


def test_a_new_file_begins_by_size_and_holds_the_cursor(tmp_path: Path):
    journal = opened(tmp_path, rotate_bytes=300)
    for k in range(1, 20):
        journal.append([batch(k, 1)])
    journal.close()
    assert len(files(tmp_path)) > 3
    assert [int(line[20:-1]) for line in held(tmp_path)] == [*range(1, 20)]
    newest = files(tmp_path)[-1]
    os.truncate(newest, len(framed(Batch(START, START, ()))))
    assert opened(tmp_path).cursor is not None  # its header, or the file before it


def test_a_new_file_begins_by_time(tmp_path: Path):
    journal = opened(tmp_path, rotate_s=0.0)
    for k in range(1, 4):
        journal.append([batch(k, 1)])
    assert len(files(tmp_path)) == 3


def test_a_file_that_was_being_made_is_no_loss(tmp_path: Path):
    journal = opened(tmp_path)
    journal.append([batch(1, 2)])
    journal.close()
    (tmp_path / "20300101T000000Z-00000002.jsonl").write_bytes(b'{"type":"comm')
    again = opened(tmp_path)
    assert again.cursor == Cursor(7, 2)
    assert len(files(tmp_path)) == 1


def test_the_oldest_files_go_above_what_is_kept(tmp_path: Path):
    journal = opened(tmp_path, rotate_bytes=4096, keep_bytes=12_000)
    for k in range(1, 1000):
        journal.append([batch(k, 1)])
    assert sum(path.stat().st_size for path in files(tmp_path)) < 12_000 + 2 * 4096
    lines = [int(line[20:-1]) for line in held(tmp_path)]
    assert lines == [*range(lines[0], 1000)]


def test_a_full_disk_leaves_what_was_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = opened(tmp_path)
    journal.append([batch(1, 2)])
    size = journal.size
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 40:
            return real(fd, bytes(data[:40]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        journal.append([batch(3, 2)])
    monkeypatch.setattr(module.os, "write", real)
    assert files(tmp_path)[0].stat().st_size == size
    assert journal.cursor == Cursor(7, 2)
    journal.append([batch(3, 2)])
    assert len(held(tmp_path)) == 4


def test_what_a_full_disk_has_left_behind_is_cut_off_before_the_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    journal = opened(tmp_path)
    journal.append([batch(1, 2)])
    write, truncate = os.write, os.ftruncate

    def full(fd: int, data: bytes) -> int:
        if len(data) > 40:
            return write(fd, bytes(data[:40]))
        raise OSError(28, "No space left on device")

    def full_too(_fd: int, _length: int) -> None:
        raise OSError(28, "No space left on device")  # so do file systems that copy on write

    monkeypatch.setattr(module.os, "write", full)
    monkeypatch.setattr(module.os, "ftruncate", full_too)
    with pytest.raises(OSError, match="No space"):
        journal.append([batch(3, 2)])
    monkeypatch.setattr(module.os, "write", write)
    with pytest.raises(OSError, match="No space"):
        journal.append([batch(3, 2)])
    monkeypatch.setattr(module.os, "ftruncate", truncate)
    journal.append([batch(3, 2)])
    journal.close()
    again = opened(tmp_path)
    assert (again.cursor, again.cut, len(held(tmp_path))) == (Cursor(7, 4), 0, 4)
