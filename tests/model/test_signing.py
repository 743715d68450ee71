"""Signed packages: served only when one of the trusted keys signed exactly this package."""

import pytest

from data_schemas.errors import PackageError, UsageError
from pipeline.model.export import export_package
from pipeline.model.package import open_package, with_evaluation
from pipeline.model.signing import SIGNATURE, check_signature, new_signing_key, signature_of
from pipeline.tracking.registry import fetch_package, keep_signature, register
from services.cli.main import main
from tests.model import tiny_network as tiny


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signing") / "package"
    export_package(tiny.EvidenceNetwork(2), tiny.images(), tiny.card(), tiny.CONTRACT, folder)
    return open_package(folder)


@pytest.fixture
def copy(package, tmp_path):
    """The same model as a package of this test's own."""
    return with_evaluation(package, None, tmp_path / "package")


def test_a_signed_package_opens_and_keeps_its_digest(copy, tmp_path, capsys):
    key = tmp_path / "signing.key"
    code = main(["sign", str(copy.folder), "--key", str(key), "--new-key"])
    assert (code, copy.sha256 in capsys.readouterr().out) == (0, True)
    assert key.stat().st_mode & 0o777 == 0o600
    trusted = tmp_path / "signing.key.pub"
    assert open_package(copy.folder, trusted_keys=trusted).sha256 == copy.sha256
    # among other keys and remarks
    other = new_signing_key(tmp_path / "other.key")
    trusted.write_text(f"# who releases\n\n{other.read_text()}{trusted.read_text().strip()} us\n")
    open_package(copy.folder, trusted_keys=trusted)


def test_a_package_that_is_not_signed_by_them_is_refused(copy, package, tmp_path):
    trusted = new_signing_key(tmp_path / "signing.key")
    with pytest.raises(PackageError, match="isn't signed"):
        open_package(copy.folder, trusted_keys=trusted)
    new_signing_key(tmp_path / "other.key")
    sign = copy.folder / SIGNATURE
    sign.write_text(signature_of(copy.sha256, tmp_path / "other.key"))
    with pytest.raises(PackageError, match="none of the trusted keys"):
        open_package(copy.folder, trusted_keys=trusted)
    # the signature of another package, by the right key
    sign.write_text(signature_of("0" * 64, tmp_path / "signing.key"))
    with pytest.raises(PackageError, match="isn't of this package"):
        open_package(copy.folder, trusted_keys=trusted)
    good = signature_of(copy.sha256, tmp_path / "signing.key")
    for bad in (good[:-4] + "AAA=", good.rpartition(" ")[0], "ed25519 x y", good + " more", ""):
        sign.write_text(bad)
        with pytest.raises(PackageError):
            open_package(copy.folder, trusted_keys=trusted)
    sign.write_text(good)
    assert check_signature(copy.folder, copy.sha256, trusted) == good.split()[1]


def test_a_package_changed_and_summed_anew_is_refused(copy, tmp_path):
    trusted = new_signing_key(tmp_path / "signing.key")
    good = signature_of(copy.sha256, tmp_path / "signing.key")
    changed = with_evaluation(copy, None, tmp_path / "changed", notes=("raised the threshold",))
    (changed.folder / SIGNATURE).write_text(good)
    open_package(changed.folder)
    with pytest.raises(PackageError, match="isn't of this package"):
        open_package(changed.folder, trusted_keys=trusted)


def test_files_of_keys_are_read_with_care(copy, tmp_path):
    key = tmp_path / "signing.key"
    public = new_signing_key(key)
    with pytest.raises(UsageError, match="not written over"):
        new_signing_key(key)
    with pytest.raises(UsageError, match="can't be read"):
        signature_of(copy.sha256, public)
    with pytest.raises(UsageError, match="can't be read"):
        signature_of(copy.sha256, tmp_path / "none")
    for text, what in (("", "holds no key"), ("ed25519 abc\n", "no line of")):
        public.write_text(text)
        with pytest.raises(UsageError, match=what):
            open_package(copy.folder, trusted_keys=public)


def test_the_registry_carries_a_signature_as_a_tag(copy, tmp_path, mlflow_uri):
    from pipeline.tracking.store import open_client

    client = open_client(mlflow_uri)
    run = client.create_run(client.create_experiment("signed"))
    client.set_terminated(run.info.run_id)
    key = tmp_path / "signing.key"
    trusted = new_signing_key(key)
    version = register(mlflow_uri, run.info.run_id, copy.folder, "signed", "champion")
    fetched = fetch_package("models:/signed@champion", mlflow_uri, tmp_path / "one")
    with pytest.raises(PackageError, match="isn't signed"):
        open_package(fetched.folder, trusted_keys=trusted)
    keep_signature(mlflow_uri, "signed", version, signature_of(copy.sha256, key))
    # the files are there already: the signature comes all the same
    fetched = fetch_package("models:/signed@champion", mlflow_uri, tmp_path / "one")
    assert open_package(fetched.folder, trusted_keys=trusted).sha256 == copy.sha256
