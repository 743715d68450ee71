"""Label tables: what becomes a label, and every fault with its line."""

import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_schemas.errors import DatasetError, HilumError
from pipeline.ingest.labels import read_labels
from pipeline.ingest.table import read_table


@pytest.fixture
def labels_of(tmp_path: Path):
    def read(text: str, *only: str, **named):
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        return read_labels(read_table(path), named.pop("only", only), named.pop("ordinal", None))

    return read


def faults_of(call, *words: str, **named) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        call(*words, **named)
    return caught.value.what.splitlines()


def kinds_of(table):
    return {column.name: (column.kind, column.classes) for column in table.columns}


def test_columns_are_told_apart_by_their_values(labels_of):
    table = labels_of(
        "image,patient,laterality,split,grade,DR,age,name,truth,float\n"
        "a.png,p1,L,train,0,1,67,x,true,1.0\n"
        "b.png,p2,OD,test,4,0,45,y,False,0.0\n"
        "c.png,,,,,1,80,z,true,1.0\n"
    )
    assert kinds_of(table) == {
        "grade": ("ordinal", ("0", "1", "2", "3", "4")),
        "dr": ("binary", ("0", "1")),
        "truth": ("binary", ("0", "1")),
        "float": ("binary", ("0", "1")),
    }
    assert table.rows[2].labels == (None, 1, 1, 1)
    assert [row.laterality for row in table.rows] == ["L", "R", "U"]
    assert [row.split for row in table.rows] == ["train", "test", None]
    assert len(table.remarks) == 2


def test_spellings_of_one_word_are_one_class(labels_of):
    words = [
        "Normal",
        "Normal",
        "normal",
        "N\u00e9oplasie",
        "Ne\u0301oplasie",
        "NORMAL ",
        "n\u00e9oplasie",
    ]
    words += ["Early  stage", "Early stage"]
    text = "image,diagnosis\n" + "".join(f"{k},{word}\n" for k, word in enumerate(words))
    table = labels_of(text)
    assert kinds_of(table) == {
        "diagnosis": ("classes", ("Early stage", "Normal", "N\u00e9oplasie"))
    }
    assert [row.labels for row in table.rows] == [(k,) for k in (1, 1, 1, 2, 2, 1, 2, 0, 0)]
    assert any("5 cells differ from their class" in remark for remark in table.remarks)
    ordered = labels_of(text, ordinal={"diagnosis": ("normal", "early stage", "n\u00e9oplasie")})
    assert [row.labels for row in ordered.rows] == [(k,) for k in (0, 0, 0, 2, 2, 0, 2, 1, 1)]


def test_words_become_classes_and_orders_only_where_somebody_says_so(labels_of, tmp_path):
    text = (
        "image,diagnosis,severity,stage\n"
        "a,malignant,mild,1\nb,benign,severe,2\nc,malignant,none,NA\nd,benign,none,3\ne,,mild,2\nf,,severe,1\n"
    )
    table = labels_of(text)
    assert kinds_of(table) == {
        "diagnosis": ("classes", ("benign", "malignant")),
        "severity": ("classes", ("mild", "none", "severe")),  # among words, none is one
        "stage": ("ordinal", ("0", "1", "2", "3")),
    }
    assert [row.labels[0] for row in table.rows] == [1, 0, 1, 0, None, None]
    assert table.rows[2].labels[2] is None
    assert any("`stage`: 1 cells such as NA" in remark for remark in table.remarks)
    numbers = labels_of("image,stage\na,None\nb,2\nc,1\n")
    assert [row.labels for row in numbers.rows] == [(None,), (2,), (1,)]
    ordered = labels_of(
        text.replace("none", "No"),
        ordinal={"severity": ("no", "mild", "severe"), "diagnosis": ()},
        only=("severity",),
    )
    assert kinds_of(ordered) == {"severity": ("ordinal", ("no", "mild", "severe"))}
    assert [row.labels[0] for row in ordered.rows] == [1, 2, 0, 0, 1, 2]
    assert "words have no order" in faults_of(labels_of, text, ordinal={"diagnosis": ()})[0]
    assert faults_of(labels_of, text, ordinal={"severity": ("mild", "bad")})[0].endswith(
        "severity: is none of mild, bad"
    )


def test_numbers_have_an_order_by_name_or_by_word(labels_of):
    text = "image,density,birads,quality_level,kind\na,0,0,0,0\nb,1,4,1,2\nc,2,6,0,1\n"
    kinds = {name: kind for name, (kind, _) in kinds_of(labels_of(text)).items()}
    assert kinds == {
        "density": "classes",
        "birads": "ordinal",
        "quality_level": "binary",
        "kind": "classes",
    }
    assert kinds_of(labels_of(text, ordinal={"Density": ()}))["density"][0] == "ordinal"


@pytest.mark.parametrize(
    "column",
    [
        "surname: Doe, Roe, Doe, Roe",
        "ward: Doe, Doe, Roe, Roe",  # one text for each patient: a name under another title
        "patient_id: 1, 1, 2, 2",
        "accession: 7, 7, 9, 9",
        "exam: 2020-01-02, 2020-01-02, 2021-01-02, 2021-01-02",
        "seen: 20200102, 20200102, 20210102, 20210102",
        "findings_free: no lesion, a lesion, two lesions, three",
        "code: AB1234, AB1234, AB1235, AB1235",
        "year: 1, 2, 1, 2",
        "disc_side: L, R, R, L",
        "comment: ok, bad, ok, bad",
    ],
)
def test_what_may_name_a_person_is_no_label(column, labels_of):
    title, cells = column.split(": ")
    rows = "".join(f"{k},p{k // 2},{cell},{k % 2}\n" for k, cell in enumerate(cells.split(", ")))
    table = labels_of(f"image,patient,{title},y\n{rows}")
    assert [found.name for found in table.columns] == ["y"]
    assert len(table.remarks) == 1
    assert "Doe" not in table.remarks[0]


def test_a_word_that_many_patients_share_is_a_class_under_any_name(labels_of):
    rows = "".join(f"{k},p{k},{'AB'[k % 2]},{k % 3}\n" for k in range(6))
    assert kinds_of(labels_of(f"image,patient,ward,label_id\n{rows}")) == {
        "ward": ("classes", ("A", "B")),
        "label_id": ("classes", ("0", "1", "2")),
    }


def test_titles_of_other_tools_are_understood(labels_of):
    table = labels_of(
        "SOPInstanceUID,Patient ID,Eye,Site,y\n1.2.3,7,OS,north,1\n1.2.4,8,,south,0\n"
    )
    first = table.rows[0]
    assert (first.sop_instance_uid, first.patient, first.laterality, first.site) == ("1.2.3", "7", "L", "north")  # fmt: skip
    assert [found.name for found in table.columns] == ["y"]
    assert len(table.remarks) == 3


def test_json_parquet_and_csv_say_the_same(tmp_path, labels_of):
    rows = [
        {"image": "a.png", "grade": 3, "seen": True, "ratio": 1.0},
        {"image": "ä.png", "grade": None, "seen": False},
        {"image": "c.png", "grade": 0, "seen": None, "ratio": 0.0},
    ]
    (tmp_path / "array.json").write_text(json.dumps(rows), encoding="utf-8")
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "lines.jsonl").write_text(f"\ufeff{lines}\n\n", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    csv = labels_of("image,grade,seen,ratio\na.png,3,1,1\nä.png,,0,\nc.png,0,,0\n")
    for name in ("array.json", "lines.jsonl", "table.parquet"):
        found = read_labels(read_table(tmp_path / name))
        assert found.columns == csv.columns
        assert [(row.image, row.labels) for row in found.rows] == [
            (row.image, row.labels) for row in csv.rows
        ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"image": "a", "y": [1]}]', "x.json:1: y: is no single value"),
        ('{"image": "a", "y": 1}\n[2]', "x.json:2: is no JSON object"),
        ('[{"image": "a"', "neither a JSON array nor JSON lines"),
        ('[{"image": "\\ud800", "y": 1}]', "neither a JSON array nor JSON lines"),
        ("[]", "no rows"),
    ],
)
def test_broken_json_is_told(text, said, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError, match=said):
        read_table(tmp_path / "x.json")


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
        "labels.csv:34: y: is not a whole number; mend it or empty the cell",
        "labels.csv:32: laterality: is none of L, R, B, U",
        "labels.csv:33: names no image",
        "labels.csv:34: split: is none of train, tune, calibration, test, external",
    ]


def test_named_labels_must_be_labels(labels_of):
    text = "image,y,age,note,seen\na,1,70,x,2020-01-01\nb,0,-2,y,2020-01-01\n"
    assert faults_of(labels_of, text, "grade") == ["labels.csv: grade: no such label column"]
    assert len(faults_of(labels_of, text, "age")) == 2
    assert "holds dates" in faults_of(labels_of, text, "seen")[0]
    assert [column.name for column in labels_of(text, "y").columns] == ["y"]
    # whoever names a column of words vouches for it
    assert kinds_of(labels_of(text, "note")) == {"note": ("classes", ("x", "y"))}


def test_a_table_must_name_images(labels_of):
    assert "it has: scan, y" in faults_of(labels_of, "scan,y\na,1\n")[0]
    fault = faults_of(labels_of, "Doe_Jane_1960.png,1\nRoe.png,0\n")[0]
    assert "is its first line a header?" in fault
    assert "Doe" not in fault


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sep=;\nimage;y\na,1.png;1\nb.png;0\n", 3),
        ('"sep=|"\r\nimage|y\r\na,1.png|1\r\nb.png|0\r\n', 3),
        ("image;y;note (0,1,2,3)\na,1.png;1;\nb.png;0;\n", 2),
        ("\n \nimage;y\na,1.png;1\nb.png;0\n", 4),
        (";;\nimage;y;\n", 0),
        ("file\ty\na,1.png\t1\nb.png\t0\n", 2),
    ],
)
def test_what_divides_the_cells(text, line, labels_of):
    if not line:
        assert faults_of(labels_of, text)[0] == "labels.csv:2: column 3 has no name"
        return
    table = labels_of(text)
    assert [row.image for row in table.rows] == ["a,1.png", "b.png"]
    assert [row.line for row in table.rows] == [line, line + 1]
    assert [row.labels for row in table.rows] == [(1,), (0,)]


def test_lines_of_a_table_end_as_those_of_csv(labels_of):
    marks = "\x0b\x0c\x1c\x85\u2028"
    table = labels_of(f'image,y\n"a{marks}1.png",1\nb{marks}.png,0\n')
    assert [row.image for row in table.rows] == [f"a{marks}1.png", f"b{marks}.png"]
    assert [row.line for row in table.rows] == [2, 3]


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


@given(
    st.binary(max_size=200)
    | st.text(alphabet="image,y\n01;\"'\t\r- ", max_size=80).map(str.encode)
    | st.text(alphabet='[]{}":,image y01\\n', max_size=60).map(lambda s: f"[{s}".encode())
)
def test_any_bytes_are_a_table_or_an_error_of_ours(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    found = None
    with suppress(HilumError):  # anything else fails the test
        found = read_labels(read_table(path))
    assert found is None or all(row.where for row in found.rows)
