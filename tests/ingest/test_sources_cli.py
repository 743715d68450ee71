"""The door of sources: options and secrets from arguments, environment and files; a whole command on a zip."""

import argparse
import json
import zipfile

import pytest

from data_schemas.errors import UsageError
from services.cli import access
from services.cli.main import main
from tests.ingest.test_s3 import png
from tests.ingest.test_sources import small_medmnist


def given(*words: str):
    parser = argparse.ArgumentParser()
    access.configure(parser)
    return access.access_of(parser.parse_args(words))


def test_secrets_come_from_environment_or_file_and_show_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HILUM_DICOMWEB_TOKEN", " from the environment\n")
    monkeypatch.setenv("HILUM_DICOMWEB_USER", "user")
    monkeypatch.setenv("HILUM_DICOMWEB_PASSWORD", "password of tests")
    found = given()
    assert (found.token, found.user, found.password) == ("from the environment", "user", "password of tests")  # fmt: skip
    assert "tests" not in repr(found)
    (tmp_path / "token").write_text("from the file\n")
    assert given("--token-file", str(tmp_path / "token")).token == "from the file"  # noqa: S105
    with pytest.raises(UsageError, match="token file"):
        given("--token-file", str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="no such file"):
        given("--ca-file", str(tmp_path / "nothing"))


def test_options_of_storage_are_text_switches_or_nested():
    found = given(
        "--storage-option", "endpoint_url=http://127.0.0.1:1/?a=b",
        "--storage-option", "anon=true",
        "--storage-option", "key=123",
        "--storage-option", 'client_kwargs={"region_name": "x"}',
    )  # fmt: skip
    assert dict(found.storage) == {
        "endpoint_url": "http://127.0.0.1:1/?a=b",
        "anon": True,
        "key": "123",
        "client_kwargs": {"region_name": "x"},
    }
    with pytest.raises(UsageError, match="KEY=VALUE"):
        given("--storage-option", "anon")


def test_a_zip_with_an_order_of_words_by_one_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HILUM_PSEUDONYM_KEY", "a key for tests only")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for k in range(4):
            archive.writestr(f"in/{k}.png", png(k))
    table = tmp_path / "labels.csv"
    table.write_text("image,severity\n0.png,severe\n1.png,none\n2.png,mild\n9.png,mild\n")
    words = ["ingest", str(tmp_path / "photos.zip"), "--labels", str(table), "--set", "size=16"]
    order = ["--ordinal", "severity=none,mild,severe"]
    assert main([*words, *order, "--out", str(tmp_path / "out"), "--json"]) == 0
    said = capsys.readouterr()
    info = json.loads(said.out)
    assert info["labels"][0]["kind"] == "ordinal"
    assert info["labels"][0]["counts"] == [1, 1, 1]
    assert info["refused"] == {"NO_LABEL": 1}
    assert "labels.csv: 1 rows name no file of the source (line 5)" in said.err
    assert main([*words, *order, "--out", str(tmp_path / "strict"), "--strict-labels"]) == 1
    assert "labels.csv:5: image: no such file in the source" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "size"), [((), 64), (("--set", "size=28"), 28)])
def test_a_medmnist_file_keeps_the_size_of_its_images(tmp_path, capsys, monkeypatch, words, size):
    monkeypatch.setenv("HILUM_PSEUDONYM_KEY", "a key for tests only")
    source = small_medmnist(tmp_path / "pathmnist_64.npz", side=64)
    assert main(["ingest", str(source), "--out", str(tmp_path / "out"), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == size
