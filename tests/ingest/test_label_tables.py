"""Label tables: what becomes a label, and every fault with its line."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_schemas.errors import DatasetError, HilumError
from pipeline.ingest.labels import read_labels
from pipeline.ingest.table import read_table
from tests.ingest.conftest import write_labels


@pytest.fixture
def labels_of(tmp_path: Path):
    def read(text: str, *only: str):
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        return read_labels(read_table(path), only)

    return read


def faults_of(call, *words: str) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        call(*words)
    return caught.value.what.splitlines()


def test_columns_are_told_apart_by_their_values(labels_of):
    table = labels_of(
        "image,patient,laterality,split,grade,DR,age,name,truth,float\n"
        "a.png,p1,L,train,0,1,67,x,true,1.0\n"
        "b.png,p2,OD,test,4,0,45,y,False,0.0\n"
        "c.png,,,,,1,80,z,true,1.0\n"
    )
    found = {column.name: (column.kind, column.classes) for column in table.columns}
    assert found == {
        "grade": ("classes", ("0", "1", "2", "3", "4")),
        "dr": ("binary", ("0", "1")),
        "truth": ("binary", ("0", "1")),
        "float": ("binary", ("0", "1")),
    }
    assert table.rows[2].labels == (None, 1, 1, 1)
    assert [row.laterality for row in table.rows] == ["L", "R", "U"]
    assert [row.split for row in table.rows] == ["train", "test", None]
    assert len(table.remarks) == 2


@pytest.mark.parametrize("text", ["image;y\na;1\n", "image\ty\na\t1\n", "\ufeffimage,y\r\na,1\r\n"])
def test_separators_and_marks(text, labels_of):
    assert [column.name for column in labels_of(text).columns] == ["y"]


def test_all_faults_at_once_with_their_lines(labels_of):
    rows = "".join(f"f{k}.png,L,train,1\n" for k in range(30))
    faults = faults_of(
        labels_of,
        "image,laterality,split,y\n" + rows + "f0.png,Q,train,1\n,L,train,1\nx.png,L,val,oops\n",
    )
    assert faults == [
        "labels.csv:34: y: 'oops' is not a whole number; mend it or empty the cell",
        "labels.csv:32: names the same image as labels.csv:2",
        "labels.csv:32: laterality: 'Q' is none of L, R, B, U",
        "labels.csv:33: names no image",
        "labels.csv:34: split: 'val' is none of train, tune, calibration, test, external",
    ]


def test_named_labels_must_be_labels(labels_of):
    text = "image,y,age,note\na,1,70,x\nb,0,-2,y\n"
    assert faults_of(labels_of, text, "grade") == ["labels.csv: grade: no such label column"]
    assert len(faults_of(labels_of, text, "age")) >= 2
    assert any("'x'" in fault for fault in faults_of(labels_of, text, "note"))
    assert [column.name for column in labels_of(text, "y").columns] == ["y"]


def test_a_table_must_name_images(labels_of):
    assert "no column `image`" in faults_of(labels_of, "file,y\na,1\n")[0]


def test_rows_of_another_length_and_headers_twice(labels_of):
    assert faults_of(labels_of, "image,y,y\na,1,2\nb,1\n") == [
        "labels.csv:1: y: stands twice in the header",
        "labels.csv:3: 2 cells, the header has 3",
    ]


def test_missing_empty_and_binary_tables(tmp_path, labels_of):
    with pytest.raises(DatasetError, match="no such label table"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DatasetError, match="no rows"):
        labels_of("image,y\n")
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="neither UTF-8"):
        read_table(path)
    path.write_bytes(b"PAR1 junk")
    with pytest.raises(DatasetError, match="Parquet"):
        read_table(path)


def test_rows_naming_no_file_are_told_by_line_not_by_name(mixed, take_in):
    mixed.rows[3]["image"] = "Doe_Jane.png"
    mixed.rows[5]["image"] = "../../../etc/passwd"
    write_labels(mixed.labels, mixed.rows)
    faults = faults_of(take_in, mixed.folder, mixed.labels)
    assert faults == [
        "labels.csv:5: image: no such file in the source folder",
        "labels.csv:7: image: no such file in the source folder",
    ]


@given(
    st.binary(max_size=200) | st.text(alphabet="image,y\n01;\"'\t\r- ", max_size=80).map(str.encode)
)
def test_any_bytes_are_a_table_or_an_error_of_ours(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    found = None
    with suppress(HilumError):  # anything else fails the test
        found = read_labels(read_table(path))
    assert found is None or all(row.where for row in found.rows)
