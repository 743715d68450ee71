"""The receipt log on a disk that fails, is full, or changes under it: nothing is believed that isn't there."""

import errno
import io
import json
import os

import pytest

from services.inference.journal import Journal
from services.inference.problems import Refusal
from services.inference.receipt_check import verify_log
from services.inference.receipt_files import files_of
from services.inference.receipts import Receipts
from tests.services.test_receipts import opened, receipt


def test_a_log_taken_away_while_it_is_written_is_noticed(tmp_path):
    log = opened(tmp_path)
    log.append(receipt())
    files_of(tmp_path)[0].unlink()
    with pytest.raises(Refusal, match="RECEIPT_NOT_KEPT"):
        log.append(receipt())


def replaced_by_a_copy(file):
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    return copy


def test_a_log_goes_on_in_the_copy_that_took_its_place(tmp_path):
    log = opened(tmp_path)
    log.append(receipt())
    (file,) = files_of(tmp_path)
    replaced_by_a_copy(file).replace(file)
    log.append(receipt("after"))
    found = verify_log(tmp_path)
    assert (found.flaws, found.receipts) == ([], 2)


def test_a_line_lost_to_a_copy_is_not_believed_to_be_on_disk(tmp_path, monkeypatch):
    log = opened(tmp_path)
    log.append(receipt())
    (file,) = files_of(tmp_path)
    copy, write_line = replaced_by_a_copy(file), log._write

    def and_replace(fields):
        number = write_line(fields)
        copy.replace(file)
        return number

    monkeypatch.setattr(log, "_write", and_replace)
    with pytest.raises(Refusal) as refused:
        log.append(receipt("lost"))
    assert "its file was replaced" in refused.value.detail
    monkeypatch.undo()
    log.append(receipt("kept"))
    found = verify_log(tmp_path)
    assert (found.flaws, found.receipts) == ([], 2)


class Full:
    """A disk with room for so many bytes more."""

    def __init__(self, monkeypatch, room):
        self.room = room
        self._write = os.pwrite
        monkeypatch.setattr(os, "pwrite", self)

    def __call__(self, handle, data, at):
        if len(data) in (256, 768):
            return self._write(handle, data, at)
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self._write(handle, data[: self.room], at)
        self.room -= done
        return done


def test_a_full_disk_is_a_clear_refusal_and_ends_by_itself(tmp_path, monkeypatch):
    journal = io.StringIO()
    log = Receipts(tmp_path, Journal(journal))
    log.append(receipt())
    disk = Full(monkeypatch, 300)
    for _ in range(2):
        with pytest.raises(Refusal) as refused:
            log.append(receipt("lost"))
        assert (refused.value.code, refused.value.retry_after_s) == ("RECEIPT_NOT_KEPT", 5)
        assert "ENOSPC" in refused.value.detail
    with pytest.raises(Refusal):
        log.check()
    assert verify_log(tmp_path).receipts == 1
    disk.room = 10**6
    monkeypatch.setattr("services.inference.receipts.PROBE_SECONDS", 0.0)
    log.check()
    log.append(receipt("kept"))
    found = verify_log(tmp_path)
    assert (found.flaws, found.receipts) == ([], 2)
    told = [json.loads(line)["event"] for line in journal.getvalue().splitlines()]
    told = [event for event in told if event != "receipts_anchor"]
    assert told == ["receipts_failing", "receipts_kept_again"]


def test_after_a_failed_flush_the_lines_are_written_again(tmp_path, monkeypatch):
    log = opened(tmp_path)
    log.append(receipt())
    real, written = os.fdatasync, []

    def broken(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(Refusal, match="RECEIPT_NOT_KEPT"):
        log.append(receipt("unanswered"))
    monkeypatch.setattr(os, "fdatasync", real)
    write_at = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda h, d, at: written.append((len(d), at)) or write_at(h, d, at)
    )
    log.append(receipt("next"))
    size = files_of(tmp_path)[0].stat().st_size
    assert (size, 0) in written
    assert verify_log(tmp_path).flaws == []


class FailsOnce:
    """A kernel that tells once that pages were lost, and holds them for clean from then on."""

    def __init__(self, monkeypatch):
        self.left, self.written = 0, []
        flush, write_at = os.fdatasync, os.pwrite

        def fdatasync(handle):
            self.left -= 1
            if self.left >= 0:
                raise OSError(errno.EIO, "Input/output error")
            flush(handle)

        def pwrite(handle, data, at):
            self.written.append((len(data), at))
            return write_at(handle, data, at)

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        monkeypatch.setattr(os, "pwrite", pwrite)


def test_a_file_is_left_only_after_it_was_flushed_well(tmp_path, monkeypatch):
    log = opened(tmp_path, rotate_bytes=1)
    log.append(receipt())
    (file,) = files_of(tmp_path)
    kernel = FailsOnce(monkeypatch)
    kernel.left = 1
    with pytest.raises(Refusal, match="RECEIPT_NOT_KEPT"):
        log.append(receipt("unanswered"))
    assert files_of(tmp_path) == [file]
    kernel.written.clear()
    log.append(receipt("next"))
    assert kernel.written[0] == (file.stat().st_size, 0)
    assert len(files_of(tmp_path)) == 2
    found = verify_log(tmp_path)
    assert (found.flaws, found.receipts) == ([], 2)


def test_a_trial_after_a_failed_flush_writes_the_lines_again(tmp_path, monkeypatch):
    log = opened(tmp_path)
    log.append(receipt())
    monkeypatch.setattr("services.inference.receipts.PROBE_SECONDS", 0.0)
    kernel = FailsOnce(monkeypatch)
    kernel.left = 2
    with pytest.raises(Refusal):
        log.append(receipt("unanswered"))
    whole = (files_of(tmp_path)[0].stat().st_size, 0)
    for fails in (True, False):
        kernel.written.clear()
        if fails:
            with pytest.raises(Refusal):
                log.check()
        else:
            log.check()
        assert whole in kernel.written
    kernel.written.clear()
    log.append(receipt("next"))
    assert whole not in kernel.written
    assert verify_log(tmp_path).flaws == []
