"""Joining labels with images: by file, digest, instance, patient and eye; what matches nothing, twice, by accident."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_schemas.errors import DatasetError
from pipeline.ingest.join import join, without_labels
from pipeline.ingest.labels import read_labels
from pipeline.ingest.names import named_files, shape_of
from pipeline.ingest.patients import place_key, pseudonym
from pipeline.ingest.records import Given, SourceFile, Taken
from pipeline.ingest.table import read_table

KEY = b"a key for tests only"


def image(place: str, patient: str = "", side="U", uid: str = "", digest: str = "", **other):
    return Taken(
        source_sha256=digest or f"{abs(hash(place)):064x}",
        frame=0,
        pixel_sha256=place,
        place_key=place_key(KEY, place),
        instance_key=pseudonym(KEY, f"instance:{uid}") if uid else "",
        patient=pseudonym(KEY, patient) if patient else "",
        site=other.pop("site", ""),
        laterality=side,
        view="",
        device="",
        format="png",
        modality="",
        rows=1,
        columns=1,
        features={},
        warnings=(),
        spool_row=0,
        **other,
    )


@pytest.fixture
def joined(tmp_path: Path):
    """Return a function: table text and images -> {place: labels or refusal}, and what was said."""

    def run(text: str, images: list[Taken], places: list[str] | None = None, *, strict=False):
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        labels = read_labels(read_table(path))
        files = [SourceFile(place, bytes) for place in places or [i.pixel_sha256 for i in images]]
        named = named_files(labels, files, str(tmp_path), KEY, strict=strict)
        found = join(labels, named, images, KEY)
        out = {taken.pixel_sha256: known for taken, known in found.pairs}
        places_of = {taken.place_key: taken.pixel_sha256 for taken in images}
        out |= {places_of[refusal.place_key]: refusal for refusal in found.refusals}
        assert len(out) == len(images)
        return out, (*named.remarks, *found.remarks)

    return run


def labels_in(out):
    return {
        place: getattr(known, "labels", getattr(known, "code", "")) for place, known in out.items()
    }


def test_by_path_by_name_and_without_its_ending(joined, tmp_path):
    out, said = joined(
        "image,y\n./a/1.png,0\na\\2.png,1\n3.png,0\n4,1\n"
        f"{tmp_path}/a/5.png,1\nb/6.png,1\ncafe\u0301.png,1\n",
        [image(f"a/{k}.png") for k in range(1, 6)]
        + [image("deep/b/6.png"), image("caf\u00e9.png")],
    )
    assert labels_in(out) == {
        "a/1.png": (0,), "a/2.png": (1,), "a/3.png": (0,), "a/4.png": (1,), "a/5.png": (1,),
        "deep/b/6.png": (1,), "caf\u00e9.png": (1,),
    }  # fmt: skip
    assert said == (
        "labels.csv: 3 rows name their file by its name alone, which is unique in the source (lines 4, 5, 7)",
    )


def test_no_file_is_taken_for_another_by_accident(joined):
    out, said = joined(
        "image,y\nnorth/1.png,0\nsouth/2.png,1\n3.png,1\nx/4.png,1\n5.png,1\n6.png,1\n7.png,1\n8.png,0\n",
        [image(p) for p in ("north/1.png", "north/2.png", "a/3.png", "b/3.png", "4.png", "5.png", "6.png", "7.png", "8.png")],
    )  # fmt: skip
    found = labels_in(out)
    # a row with a folder is not joined to a file of another folder, nor one name to two files
    assert {p for p, v in found.items() if v == "NO_LABEL"} == {"north/2.png", "a/3.png", "b/3.png", "4.png"}  # fmt: skip
    assert "2 rows name no file of the source (lines 3, 5)" in said[0]
    assert "1 rows name several files alike" in said[1]
    assert "(line 4)" in said[1]


def test_by_digest_instance_patient_and_eye(joined):
    images = [
        image("a", digest="a" * 64),
        image("b", uid="1.2.3"),
        image("c", patient="P1", side="L"),
        image("d", patient="P1", side="R"),
        image("e", patient="P2", side="R"),
        image("f", patient="P3", side="L"),
        image("g", patient="P4", side="L"),
        image("h"),
    ]
    out, said = joined(
        "source_sha256,sop_instance_uid,patient,laterality,y\n"
        + "A" * 64
        + ",,,,1\n,1.2.3,,,1\n,,P1,OS,0\n,,P1,OD,1\n,,P2,,1\n,,P3,R,1\n,,P4,B,1\n,,P9,,1\n",
        images,
    )
    assert labels_in(out) == {
        "a": (1,), "b": (1,), "c": (0,), "d": (1,), "e": (1,), "f": "NO_LABEL", "g": (1,), "h": "NO_LABEL",
    }  # fmt: skip
    assert out["g"].laterality == "L"
    assert out["c"].line == 4
    assert said == ("labels.csv: 2 rows match no file that could be read (lines 7, 9)",)


def test_several_rows_of_one_file_complete_or_contradict_each_other(joined):
    out, said = joined(
        "image,y,z\na,1,\na,,0\nb,1,0\nb,0,0\nc,,\nd,,1\n", [image(p) for p in "abcd"]
    )
    assert labels_in(out) == {
        "a": (1, 0), "b": "CONFLICTING_LABEL", "c": "NO_LABEL", "d": (None, 1),
    }  # fmt: skip
    assert out["b"].reason.endswith("(lines 4, 5)")
    assert out["c"].label_line == 6
    assert "4 rows are about a file that another row is about, too (lines 2, 3, 4, 5)" in said[0]


def test_several_rows_of_one_file_complete_or_contradict_each_other_in_what_is_no_label(joined):
    out, _ = joined(
        "image,patient,split,laterality,site,y\n"
        "a,,,,,1\na,P1,test,L,north,\n"
        "b,P1,,L,,1\nb,P2,,L,,1\n"
        "c,P1,,L,,1\nc,P1,,R,,1\n"
        "d,P1,,B,,1\nd,P1,,R,,1\n"
        "e,P3,test,,,1\ne,P3,train,,,1\n"
        "f,P4,,,north,1\nf,P4,,,south,1\n",
        [image(p) for p in "abcdef"],
    )
    assert labels_in(out) == {
        "a": (1,), "b": "CONFLICTING_LABEL", "c": "CONFLICTING_LABEL", "d": (1,),
        "e": "CONFLICTING_LABEL", "f": "CONFLICTING_LABEL",
    }  # fmt: skip
    known = out["a"]
    assert (known.patient, known.split) == (pseudonym(KEY, "P1"), "test")
    assert (known.laterality, known.site, known.line) == ("L", "north", 2)
    assert out["d"].laterality == "R"


def test_a_row_for_other_bytes_labels_nothing(joined):
    out, said = joined(
        f"image,source_sha256,y\na,{'a' * 64},1\nb,{'a' * 64},1\n",
        [image("a", digest="a" * 64), image("b", digest="b" * 64)],
    )
    assert labels_in(out) == {"a": (1,), "b": "NO_LABEL"}
    assert "changed after labelling (line 3)" in said[0]


def test_sides_sites_and_patients_of_the_table_come_first(joined):
    out, said = joined(
        "image,patient,laterality,site,split,y\n"
        "a,T1,L,north,train,1\nb,T2,R,,,1\nc,,,,,1\nd,T3,L,,,1\ne,T4,,,,1\n",
        [
            image("a", patient="H1", side="R", site="hashed"),
            image("b", patient="H1", side="R", site="hashed"),
            image("c", patient="H2"),
            image("d"),
            image("e", patient="H3"),
        ],
    )
    assert (out["a"].laterality, out["a"].site, out["a"].split) == ("L", "north", "train")
    assert (out["b"].site, out["b"].patient) == ("hashed", pseudonym(KEY, "T2"))
    assert out["c"].patient == pseudonym(KEY, "H2")
    text = "\n".join(said)
    assert "1 rows give another laterality than the header" in text
    assert "3 rows name the patient otherwise than the header" in text
    assert "1 patients of the headers are several patients in the table (lines 2, 3)" in text
    assert not any(name in text for name in ("T1", "H1", "T2"))


def test_another_naming_of_the_same_patients_is_said_once(joined):
    _, said = joined(
        "image,patient,y\na,T1,1\nb,T1,0\nc,T2,1\n",
        [image("a", patient="H1"), image("b", patient="H1"), image("c", patient="H2")],
    )
    assert len(said) == 1
    assert "3 rows name the patient otherwise" in said[0]


def test_a_table_for_another_folder_stops_before_anything_is_read(joined):
    images = [image(f"Doe_{k}.png") for k in range(9)]
    with pytest.raises(DatasetError) as caught:
        joined("image,y\n" + "".join(f"photos/Roe{k}.jpg,1\n" for k in range(9)), images)
    assert caught.value.what.splitlines() == [
        "9 of 9 rows match no single file of the source (lines 2, 3, 4, 5, 6, 7, 8, 9 and 1 more)",
        "the table names files like a/a9.jpg",
        "the source has files like a_9.png",
        "(a: letters, 9: digits)",
    ]
    assert "different endings" in (caught.value.mend or "")
    with pytest.raises(DatasetError, match="several files have this name"):
        joined("image,y\n1.png,1\n2.png,1\n3.png,1\n2.png,0\n", [image(p) for p in ("a/1.png", "b/1.png", "2.png")], strict=True)  # fmt: skip


def test_a_refused_file_keeps_the_line_that_names_it(mixed, take_in):
    _, out = take_in(mixed.folder, mixed.labels)
    rows = pq.read_table(out / "refusals.parquet").to_pylist()
    lines = {row["code"]: row["label_line"] for row in rows}
    named = [row["image"] for row in mixed.rows]
    assert lines["TRUNCATED"] == named.index("cut.png") + 2
    assert lines["BLANK"] == named.index("blank.png") + 2
    assert lines["NOT_AN_IMAGE"] == 0


def test_what_a_source_says_itself(joined):
    given = Given((1,), "test", official_test=True)
    found = without_labels([replace(image("a"), given=given), image("b", patient="P")], KEY)
    (_, first), (_, second) = found.pairs
    assert (first.labels, first.split, first.official_test) == ((1,), "test", True)
    assert (second.labels, second.patient) == ((), pseudonym(KEY, "P"))


def test_without_a_patient_a_study_or_a_file_is_one_person():
    pages = [replace(image("a", digest="a" * 64), frame=k, pixel_sha256=str(k)) for k in range(3)]
    views = [replace(image(name), study=pseudonym(KEY, "study:1.2.3")) for name in "bc"]
    named = replace(image("d", patient="P"), study=pseudonym(KEY, "study:1.2.3"))
    found = [known.patient for _, known in without_labels([*pages, *views, named], KEY).pairs]
    assert len(set(found[:3])) == len(set(found[3:5])) == 1
    assert len(set(found)) == 3
    assert found[5] == pseudonym(KEY, "P")


@given(st.text(max_size=60))
def test_shapes_tell_no_letters_and_no_digits(text):
    stem, _, ending = shape_of(f"{text}/Doe_1960.PNG").rpartition(".")
    assert ending == "PNG"
    assert not any(letter.isdigit() and letter != "9" for letter in stem if letter.isdecimal())
    assert not any(letter.isalpha() and letter != "a" for letter in stem)
    assert shape_of("photos/Jane.Doe") == "a/a.a"
