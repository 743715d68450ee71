"""Letters on disk: in order, whole or not at all, kept while nobody takes them."""

import contextlib
import json

import pytest

from data_schemas.errors import TrackingError
from pipeline.tracking import outbox
from pipeline.tracking.delivery import AT_ONCE, together
from pipeline.tracking.outbox import Letter, opened

ABOUT = {"uri": "sqlite:////x/mlflow.db", "run_id": "r"}


def bodies(box):
    return [letter.body["rows"] for letter in box.waiting]


def test_what_was_put_and_not_taken_waits_in_order_for_the_next_process(tmp_path):
    box = tmp_path / "r" / "outbox"
    with opened(box, ABOUT) as letters:
        for number in range(5):
            letters.put("metrics", {"rows": [["train/loss", 0.5, 1, number]]})
        letters.taken(list(letters.waiting)[:2])
    with opened(box, ABOUT) as again:
        assert bodies(again) == [[["train/loss", 0.5, 1, number]] for number in (2, 3, 4)]
        assert [letter.number for letter in again.waiting] == [3, 4, 5]
        assert again.put("tags", {"rows": {}}).number == 6
        again.taken(list(again.waiting))
    assert not box.exists()
    assert not box.parent.exists()


@pytest.mark.parametrize("torn", [1, 7, 60])
def test_a_torn_end_is_cut_off_and_what_comes_after_is_whole(tmp_path, torn):
    with opened(tmp_path / "outbox", ABOUT) as letters:
        for number in range(3):
            letters.put("tags", {"rows": {"number": str(number)}})
    file = tmp_path / "outbox" / outbox.LETTERS
    data = file.read_bytes()
    file.write_bytes(data[:-torn])
    with opened(tmp_path / "outbox", ABOUT) as again:
        kept = 2 if torn < 60 else 1
        assert [rows["number"] for rows in bodies(again)] == ["0", "1", "2"][:kept]
        again.put("tags", {"rows": {"number": "new"}})
    with opened(tmp_path / "outbox", ABOUT) as third:
        assert [rows["number"] for rows in bodies(third)][-1] == "new"
        assert len(third.waiting) == kept + 1


def test_a_letter_that_was_set_aside_is_kept_and_not_sent_again(tmp_path):
    with opened(tmp_path / "outbox", ABOUT) as letters:
        bad, good = (letters.put("tags", {"rows": {"a": str(n)}}) for n in range(2))
        letters.set_aside(bad, "the store says no")
    with opened(tmp_path / "outbox", ABOUT) as again:
        assert [letter.number for letter in again.waiting] == [good.number]
        again.taken([good])
    (line,) = (tmp_path / "outbox" / outbox.REFUSED).read_text().splitlines()
    assert json.loads(line)["why"] == "the store says no"


def test_files_go_with_their_letters(tmp_path):
    with opened(tmp_path / "outbox", ABOUT) as letters:
        with letters.place_for_file() as place:
            (place / "roc.png").write_bytes(b"picture")
        letter = letters.put("file", {"lies": place.name, "name": "roc.png", "folder": "figures"})
        letters.put("tags", {"rows": {}})
    with opened(tmp_path / "outbox", ABOUT) as again:
        with contextlib.suppress(ZeroDivisionError), again.place_for_file() as other:
            (other / "half").write_bytes(b"pic")
            raise ZeroDivisionError
        assert other.name > place.name
        assert not other.exists()
        again.taken([letter])
        assert not place.exists()


def test_two_processes_never_write_one_outbox(tmp_path):
    with (
        opened(tmp_path / "outbox", ABOUT),
        pytest.raises(TrackingError, match="another process"),
        opened(tmp_path / "outbox", ABOUT),
    ):
        pass


def test_a_folder_that_is_no_outbox_is_refused(tmp_path):
    with pytest.raises(TrackingError, match="nothing that a run logged"):
        outbox.about(tmp_path)


def test_only_metrics_share_a_request_and_only_so_many():
    def metrics(number, rows):
        return Letter(number, "metrics", {"rows": [["a/b", 1.0, 1, 1]] * rows})

    tags = Letter(9, "tags", {"rows": {"a": "b"}})
    assert len(together([metrics(1, 2), metrics(2, 2), tags, metrics(3, 2)])) == 2
    assert len(together([tags, tags])) == 1
    assert len(together([metrics(1, AT_ONCE - 1), metrics(2, 1), metrics(3, 1)])) == 2


def fill(file):
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while stream.write(b"x" * 4096):
            pass


@pytest.mark.disk("256k")
def test_on_a_full_disk_letters_wait_in_memory_and_are_written_when_there_is_room(disk):
    with opened(disk / "outbox", ABOUT) as letters:
        letters.put("tags", {"rows": {"number": "0"}})
        ballast = disk / "ballast"
        fill(ballast)
        for number in range(1, 200):  # more than the rest of a page
            letters.put("tags", {"rows": {"number": str(number), "filler": "x" * 100}})
        assert letters.fault.strerror == "No space left on device"
        assert len(letters.waiting) == 200
        whole = (disk / "outbox" / outbox.LETTERS).read_bytes()
        assert whole.endswith(b"\n")
        ballast.unlink()
        letters.put("tags", {"rows": {"number": "200"}})
        assert letters.fault is None
    with opened(disk / "outbox", ABOUT) as again:
        assert [rows["number"] for rows in bodies(again)] == [str(n) for n in range(201)]
