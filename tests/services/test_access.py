"""The gate: who may ask what, how often; keys changed while it runs; TLS; nothing open by accident."""

import asyncio
import io
import json
import os
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from data_schemas.errors import HilumError, UsageError
from data_schemas.keys import KeyRing, new_key
from services.cli.main import main
from services.inference import access, tls
from services.inference.access import Buckets, Gate, Keys, check_open
from services.inference.checking import check_start
from services.inference.journal import Journal
from services.inference.receipt_files import files_of
from services.inference.settings import ServiceSettings
from tests.services.conftest import ROOT, log_with, serving, wait_until_ready
from tests.services.issuers import AUDIENCE, issuing
from tests.services.test_receipts import write
from tests.services.test_scores import JPEG, check_problem, post


def hilum(capsys, *words):
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out.strip(), said.err


def ring_of(path, *keys):
    KeyRing(keys=keys).write_json(path)


def asked(gate, path="/v1/scores", method="POST", **headers):
    """Send one request through a gate; return (status, problem code, headers, facts)."""
    reached, sent, facts = [], [], {}
    gate._app = lambda *_: asyncio.sleep(0, reached.append(True))
    scope = {
        "type": "http",
        "path": path,
        "method": method,
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
        "state": {"request_id": "0" * 8, "facts": facts},
    }

    async def send(message):
        sent.append(message)

    asyncio.run(gate(scope, None, send))
    if reached:
        return 200, "", {}, facts
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], json.loads(sent[1]["body"])["code"], found, facts


def gate_of(**settings):
    return Gate(None, settings=ServiceSettings(**settings), journal=Journal(io.StringIO()))


@pytest.fixture
def ring(tmp_path):
    """A key ring with one key for each purpose, and their texts."""
    made = {
        "score": new_key("pacs", ("score",)),
        "metrics": new_key("prometheus", ("metrics",)),
        "admin": new_key("someone", ("admin",)),
        "old": new_key("old", ("score",), expires=datetime.now(UTC) - timedelta(seconds=1)),
        "slow": new_key("slow", ("score",), rate=2.0),
    }
    ring_of(tmp_path / "keys.json", *(key for key, _ in made.values()))
    return tmp_path / "keys.json", {name: text for name, (_, text) in made.items()}


def test_each_scope_opens_its_addresses_and_health_is_open(ring):
    path, texts = ring
    gate = gate_of(keys_file=str(path))
    for place in ("/healthz", "/readyz", "/v2/health/live", "/ping"):
        assert asked(gate, place, "GET")[0] == 200
    answers = {
        (name, place): asked(gate, place, "GET", x_api_key=texts[name])[0]
        for name in ("score", "metrics", "admin")
        for place in ("/v1/scores", "/v1/model", "/metrics", "/v1/admin/models", "/docs", "/none")
    }
    allowed = {pair for pair, status in answers.items() if status == 200}
    assert allowed == {
        *(("score", place) for place in ("/v1/scores", "/v1/model", "/docs", "/none")),
        ("metrics", "/metrics"),
        *(("admin", place) for _, place in answers if _ == "admin"),
    }
    assert set(answers.values()) == {200, 403}


@pytest.mark.parametrize("how", ["none", "wrong", "unknown", "expired", "two", "basic", "empty"])
def test_whoever_does_not_show_a_key_is_401(ring, how):
    path, texts = ring
    good = texts["score"]
    headers = {
        "none": {},
        "wrong": {"x_api_key": good[:-1] + ("a" if good[-1] != "a" else "b")},
        "unknown": {"authorization": "Bearer hilum_00000000_" + "x" * 43},
        "expired": {"authorization": f"Bearer {texts['old']}"},
        "two": {"authorization": f"Bearer {good}", "x_api_key": good},
        "basic": {"authorization": "Basic dXNlcjpwYXNz"},
        "empty": {"x_api_key": ""},
    }[how]
    status, code, found, _ = asked(gate_of(keys_file=str(path)), **headers)
    assert (status, code) == (401, "UNAUTHENTICATED")
    assert found["www-authenticate"].startswith("Bearer")


def test_the_log_knows_a_key_by_its_id_alone(ring):
    path, texts = ring
    status, _, _, facts = asked(gate_of(keys_file=str(path)), x_api_key=texts["score"])
    assert (status, facts["caller"]) == (200, "key:" + texts["score"].split("_")[1])
    assert texts["score"].split("_", 2)[2] not in path.read_text()


def test_a_key_ring_is_read_again_and_a_broken_one_changes_nothing(ring, monkeypatch):
    path, texts = ring
    monkeypatch.setattr(access, "READ_AGAIN_SECONDS", 0.0)
    journal = io.StringIO()
    known = Keys(path, Journal(journal))
    new, text = new_key("new", ("score",))
    ring_of(path, new)
    assert known.caller(text).id == f"key:{new.id}"
    with pytest.raises(access.Refusal):
        known.caller(texts["score"])
    path.write_text("{")
    for _ in range(3):
        assert known.caller(text).id == f"key:{new.id}"
    path.unlink()
    assert known.caller(text).id == f"key:{new.id}"
    events = [json.loads(line)["event"] for line in journal.getvalue().splitlines()]
    assert events == ["keys", "keys_refused"]


def test_a_key_that_asks_too_often_is_told_when_to_come_back(ring):
    path, texts = ring
    gate = gate_of(keys_file=str(path), rate=3.0)
    for _ in range(3):
        assert asked(gate, x_api_key=texts["score"])[0] == 200
    status, code, found, _ = asked(gate, x_api_key=texts["score"])
    assert (status, code, found["retry-after"]) == (429, "RATE_LIMITED", "1")
    # others are not held up, and a key's own rate goes before the service's
    assert asked(gate, x_api_key=texts["admin"])[0] == 200
    assert [asked(gate, x_api_key=texts["slow"])[0] for _ in range(4)][-1] == 429


def test_a_bucket_fills_at_its_rate_and_up_to_its_size():
    now = [0.0]
    buckets = Buckets(lambda: now[0])
    assert [buckets.take("a", 2.0, 3.0) for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] = 0.5
    assert [buckets.take("a", 2.0, 3.0) for _ in range(2)] == [0, 0.5]
    now[0] = 100.0
    assert [buckets.take("a", 2.0, 3.0) for _ in range(4)] == [0, 0, 0, 0.5]
    for number in range(access.MOST_BUCKETS + 5):
        buckets.take(str(number), 1.0, 1.0)
    assert len(buckets._filled) == access.MOST_BUCKETS


def test_an_open_service_on_loopback_answers_no_strange_web_page():
    gate = gate_of()
    assert asked(gate, host="127.0.0.1:8080")[0] == 200
    assert asked(gate, host="x")[0] == 200  # no browser: curl sends no Origin
    page = {"sec_fetch_site": "same-origin", "origin": "http://localhost:8080"}
    assert asked(gate, host="localhost:8080", **page)[0] == 200
    assert asked(gate, host="[::1]:8080", **page)[0] == 200
    assert asked(gate, host="evil.example:8080", **page)[:2] == (403, "FORBIDDEN")
    crossing = {"sec_fetch_site": "cross-site", "origin": "https://evil.example"}
    assert asked(gate, host="localhost:8080", **crossing)[:2] == (403, "FORBIDDEN")
    # a browser that says no more than where the page is from
    for origin in ("https://evil.example", "null", "", "http://localhost.evil.example:8080"):
        assert asked(gate, host="localhost:8080", origin=origin)[:2] == (403, "FORBIDDEN")
    for name in ("localhost", "[::1]"):
        assert asked(gate, host=f"{name}:8080", origin=f"http://{name.upper()}:8080")[0] == 200
    assert asked(gate, host="localhost", origin="http://localhost")[0] == 200
    assert asked(gate_of(hosts="scores.example"), host="scores.example", **page)[0] == 200
    assert asked(gate_of(insecure_open=True), host="evil.example", **page)[0] == 200


def test_nothing_is_open_to_others_by_accident(ring):
    path, _ = ring
    journal = io.StringIO()
    with pytest.raises(UsageError, match="nobody would be asked") as refused:
        check_open(ServiceSettings(), open_to_others=True, journal=Journal(journal))
    assert "hilum keys add" in refused.value.mend
    check_open(ServiceSettings(), open_to_others=False, journal=Journal(journal))
    check_open(ServiceSettings(keys_file=str(path)), open_to_others=True, journal=Journal(journal))
    assert journal.getvalue() == ""
    said = ServiceSettings(insecure_open=True)
    check_open(said, open_to_others=True, journal=Journal(journal))
    assert json.loads(journal.getvalue())["level"] == "warning"


def test_the_command_makes_lists_and_revokes_keys(tmp_path, capsys):
    file = tmp_path / "ring" / "keys.json"
    code, text, said = hilum(capsys, "keys", "add", "pacs-1", "--file", file, "--days", "2")
    assert (code, text.startswith("hilum_"), "shown only now" in said) == (0, True, True)
    _, other, _ = hilum(
        capsys, "keys", "add", "p", "--file", file, "--scope", "metrics", "--rate", "5"
    )
    assert file.stat().st_mode & 0o777 == 0o600
    assert text.split("_", 2)[2] not in file.read_text()
    known = Keys(file, Journal(io.StringIO()))
    assert known.caller(text).scopes == {"score"}
    assert (known.caller(other).scopes, known.caller(other).rate) == ({"metrics"}, 5.0)
    _, listed, _ = hilum(capsys, "keys", "list", "--file", file)
    assert "pacs-1" in listed
    name = text.split("_")[1]
    assert hilum(capsys, "keys", "revoke", name, "--file", file)[0] == 0
    assert name not in hilum(capsys, "keys", "list", "--file", file)[1]
    assert hilum(capsys, "keys", "revoke", name, "--file", file)[0] == 2
    # 0 days is an end that somebody worked out wrongly, and not "for good"
    for wrong in (("--days", "-1"), ("--days", "0"), ("--rate", "0"), ("--rate", "nan")):
        assert hilum(capsys, "keys", "add", "x", "--file", file, *wrong)[0] == 2
    assert hilum(capsys, "keys", "add", "--file", file)[0] == 2


# ---- TLS


def certificate(folder, name="localhost"):
    """Write a certificate of this name, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def shaken(context, version=None):
    """Shake hands with a server's context in memory; return the certificate that it showed."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        client.maximum_version = version
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname="localhost"),
        context.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return x509.load_der_x509_certificate(ends[0].getpeercert(binary_form=True))


def test_a_renewed_certificate_serves_the_next_connection(tmp_path, monkeypatch):
    files = certificate(tmp_path)
    certificates = tls.Certificates(*files)
    first = shaken(certificates.context)
    assert shaken(certificates.context) == first
    certificate(tmp_path)
    os.utime(files[0], ns=(1, time.time_ns()))
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.0)
    second = shaken(certificates.context)
    assert second != first
    files[1].write_text("half of a renewal")
    assert shaken(certificates.context) == second


def test_files_that_do_not_fit_are_said_at_start(tmp_path):
    cert, key = certificate(tmp_path)
    with pytest.raises(UsageError, match="belong together"):
        tls.server_options(ServiceSettings(tls_cert=str(cert)))
    with pytest.raises(UsageError, match="can't be used"):
        tls.server_options(ServiceSettings(tls_cert=str(key), tls_key=str(key)))
    assert tls.server_options(ServiceSettings()) == {"proxy_headers": False}
    believed = tls.server_options(ServiceSettings(trusted_proxies="10.0.0.1 10.0.0.2"))
    assert believed["forwarded_allow_ips"] == ["10.0.0.1", "10.0.0.2"]


# ---- a running service


@pytest.fixture(scope="module")
def guarded(package, tmp_path_factory):
    """A service with TLS, keys and an issuer; the keys' texts and the issuer."""
    place = tmp_path_factory.mktemp("guarded")
    cert, key = certificate(place)
    keys = {name: new_key(name, (name,)) for name in ("score", "metrics")}
    ring_of(place / "keys.json", *(key for key, _ in keys.values()))
    with issuing() as issuer:
        words = {
            "HILUM_KEYS_FILE": str(place / "keys.json"),
            "HILUM_OIDC_ISSUER": issuer.url,
            "HILUM_OIDC_AUDIENCE": AUDIENCE,
            "HILUM_TLS_CERT": str(cert),
            "HILUM_TLS_KEY": str(key),
        }
        with serving(package.folder, place / "log", **words) as running:
            context = ssl.create_default_context(cafile=str(cert))
            running.url = running.url.replace("127.0.0.1", "localhost")
            plain = running.client
            running.client = lambda **options: plain(verify=context, **options)
            wait_until_ready(running)
            yield running, {name: text for name, (_, text) in keys.items()}, issuer, place


def test_a_guarded_service_scores_for_keys_and_tokens_over_tls(guarded):
    running, texts, issuer, _ = guarded
    assert running.url.startswith("https://")
    with running.client() as client:
        check_problem(post(client, JPEG), 401, "UNAUTHENTICATED")
        check_problem(client.get("/metrics"), 401, "UNAUTHENTICATED")
        answer = post(client, JPEG, **{"X-API-Key": texts["score"]})
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"].startswith("max-age=")
        bearer = {"Authorization": f"Bearer {issuer.token()}"}
        assert post(client, JPEG, **bearer).status_code == 200
        check_problem(client.get("/metrics", headers=bearer), 403, "FORBIDDEN")
        metrics = {"Authorization": f"Bearer {texts['metrics']}"}
        assert client.get("/metrics", headers=metrics).status_code == 200
        check_problem(post(client, JPEG, **metrics), 403, "FORBIDDEN")
        assert client.get("/").status_code == 200


def test_no_key_and_no_token_ever_reaches_the_log(guarded):
    running, texts, issuer, _ = guarded
    token = issuer.token()
    with running.client() as client:
        for credential in (*texts.values(), token, "hilum_bad_" + "s3cret" * 8):
            headers = {"Authorization": f"Bearer {credential}"}
            client.get("/v1/model", headers=headers)
            name = client.get("/healthz").headers["x-request-id"]
    log = log_with(running, name)
    assert '"caller": "key:' in log
    assert '"caller": "token:' in log
    for secret in (*(text.split("_", 2)[2] for text in texts.values()), token, "s3cret", "erika"):
        assert secret not in log


def test_keys_change_while_it_runs(guarded):
    running, texts, _, place = guarded
    new, text = new_key("new", ("score",))
    before = (place / "keys.json").read_bytes()
    ring_of(place / "keys.json", new)
    try:
        time.sleep(1.1)
        with running.client() as client:
            assert client.get("/v1/model", headers={"X-API-Key": text}).status_code == 200
            answer = client.get("/v1/model", headers={"X-API-Key": texts["score"]})
            check_problem(answer, 401, "UNAUTHENTICATED")
    finally:
        (place / "keys.json").write_bytes(before)
        time.sleep(1.1)


def test_the_description_names_keys_and_their_refusals(client):
    tree = client.get("/openapi.json").json()
    assert set(tree["components"]["securitySchemes"]) == {"key", "bearer"}
    score = tree["paths"]["/v1/scores"]["post"]
    assert {"401", "403", "429", "503"} <= set(score["responses"])
    assert score["security"]
    assert "security" not in tree["paths"]["/healthz"]["get"]


def test_a_service_open_to_others_does_not_start_by_accident(package):
    done = started_in_vain(package, "--host", "0.0.0.0")  # noqa: S104 - it must not start
    assert "nobody would be asked who they are" in done.stderr
    assert "--insecure-open" in done.stderr


def started_in_vain(package, *words):
    start = ["-m", "services.cli.main", "serve", str(package.folder), "--port", "0"]
    done = subprocess.run(
        [sys.executable, *start, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    return done


def test_what_would_end_every_worker_ends_the_command_with_its_sentence(package, tmp_path):
    (tmp_path / "file").write_text("")
    done = started_in_vain(package, "--receipts", str(tmp_path / "file" / "log"))
    assert "receipts can't be kept there" in done.stderr


def test_what_workers_need_is_looked_at_before_they_start(tmp_path):
    cert, key = certificate(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[]")
    for settings, what in (
        ({"tls_cert": str(cert), "tls_key": str(certificate(other)[1])}, "can't be used"),
        ({"tls_cert": str(cert)}, "belong together"),
        ({"keys_file": str(wrong)}, "wrong.json"),
        ({"keys_file": str(tmp_path / "none.json")}, "none.json"),
        ({"receipts": str(other), "receipt_key_file": str(cert)}, "32 hex digits"),
        ({"oidc_issuer": "https://issuer.example"}, "meant for this service"),
        (
            {
                "oidc_issuer": "https://issuer.example",
                "oidc_audience": "us",
                "oidc_jwks_url": "http://issuer.example/keys",
            },
            "https://",
        ),
    ):
        with pytest.raises(HilumError, match=what):
            check_start(ServiceSettings(**settings))
    cut = tmp_path / "log"
    write(cut, 3)
    files_of(cut)[0].unlink()
    with pytest.raises(HilumError, match="the log ends"):
        check_start(ServiceSettings(receipts=str(cut)))
    check_start(ServiceSettings())
    check_start(ServiceSettings(tls_cert=str(cert), tls_key=str(key), receipts=str(other)))


@pytest.mark.parametrize("asked", ["", "receipts"])
def test_looking_before_the_start_imports_nothing_that_is_not_asked_for(asked, tmp_path):
    settings = {asked: str(tmp_path)} if asked else {}
    script = (
        "import sys\n"
        "from services.inference.checking import check_start\n"
        "from services.inference.settings import ServiceSettings\n"
        "before = set(sys.modules)\n"
        f"check_start(ServiceSettings(**{settings}))\n"
        "new = set(sys.modules) - before\n"
        # the library of the figures may be imported only when its folder has been named
        "print(bool(new), 'prometheus_client' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{bool(asked)} False\n"
