"""Bearer tokens: only those of the issuer, for this service, in their time; its keys kept and renewed."""

import asyncio
import base64
import hmac
import http.client
import io
import json
import time

import pytest
from joserfc.jwk import OctKey, RSAKey

from data_schemas.errors import UsageError
from services.inference import tokens
from services.inference.journal import Journal
from services.inference.problems import Refusal
from services.inference.settings import ServiceSettings
from services.inference.tokens import Tokens
from tests.services.issuers import AUDIENCE, issuing


@pytest.fixture
def issuer():
    with issuing() as running:
        yield running


def trusting(issuer, **changes):
    settings = ServiceSettings(**{"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE} | changes)
    return Tokens(settings, Journal(io.StringIO()))


def identity(known, text):
    return asyncio.run(known.identity(text))


def refused(known, text):
    with pytest.raises(Refusal) as error:
        identity(known, text)
    return error.value


def test_a_token_says_what_its_bearer_may(issuer):
    known = trusting(issuer)
    assert identity(known, issuer.token()).scopes == {"score"}
    found = identity(known, issuer.token(scope="openid hilum:metrics hilum:admin"))
    assert found.scopes == {"metrics", "admin"}
    assert identity(known, issuer.token(scope=None, roles=["hilum:score"])).scopes == {"score"}
    assert identity(known, issuer.token(aud=["other", AUDIENCE], alg="PS256")).scopes == {"score"}
    # the log tells one subject from another and names nobody
    assert found.id.startswith("token:")
    assert "erika" not in found.id
    # two documents, fetched once
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]


def signed_by(issuer, alg, sign):
    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {"iss": issuer.url, "aud": AUDIENCE, "exp": int(time.time()) + 300}
    text = ".".join(
        part(json.dumps(tree).encode()) for tree in ({"alg": alg, "kid": "one"}, claims)
    )
    return f"{text}.{part(sign(text.encode()))}"


def unsigned(issuer):
    return signed_by(issuer, "none", lambda _: b"")


def by_public_key(issuer):
    """Signed with the public key as if it were a shared secret: the oldest trick."""
    public = issuer.keys[0].as_pem(private=False)
    return signed_by(issuer, "HS256", lambda text: hmac.digest(public, text, "sha256"))


def test_other_tokens_are_refused_all_with_the_same_words(issuer):
    known = trusting(issuer)
    strange = RSAKey.generate_key(2048, {"kid": "one"}, auto_kid=False)
    good = issuer.token()
    bad = [
        issuer.token(exp=int(time.time()) - 60),
        issuer.token(exp=None),
        issuer.token(nbf=int(time.time()) + 600),
        issuer.token(aud="another-service"),
        issuer.token(aud=None),
        issuer.token(iss="https://elsewhere.example"),
        issuer.token(key=strange),
        by_public_key(issuer),
        unsigned(issuer),
        good[:-8] + "AAAAAAAA",
        good.rpartition(".")[0],
        "no.token.here",
        "{}",
        "",
        "a" * 20_000,
    ]
    said = {(refused(known, text).code, refused(known, text).detail) for text in bad}
    assert {code for code, _ in said} == {"UNAUTHENTICATED"}
    assert len(said) == 1
    assert "invalid_token" in refused(known, bad[0]).challenge


def test_a_new_key_of_the_issuer_is_fetched_and_made_up_names_are_not(issuer, monkeypatch):
    known = trusting(issuer)
    identity(known, issuer.token())
    issuer.add("two")
    assert refused(known, issuer.token()).code == "UNAUTHENTICATED"
    assert len(issuer.asked) == 2
    monkeypatch.setattr(tokens, "BETWEEN_FETCHES", 0.0)
    assert identity(known, issuer.token()).scopes == {"score"}
    assert len(issuer.asked) == 4


def test_while_the_issuer_is_away_known_keys_serve(issuer, monkeypatch):
    known = trusting(issuer)
    identity(known, issuer.token())
    issuer.away = True
    monkeypatch.setattr(tokens, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(tokens, "BETWEEN_FETCHES", 0.0)
    assert identity(known, issuer.token(scope="hilum:admin")).scopes == {"admin"}
    assert len(issuer.asked) == 3
    monkeypatch.setattr(tokens, "KEPT_SECONDS", 0.0)
    assert refused(known, issuer.token(scope="hilum:metrics")).code == "ISSUER_AWAY"


def test_an_issuer_never_seen_is_told_apart_from_a_bad_token(issuer):
    issuer.away = True
    found = refused(trusting(issuer), issuer.token())
    assert (found.code, found.retry_after_s) == ("ISSUER_AWAY", 10)


def test_a_shared_secret_among_the_issuers_keys_is_not_taken(issuer, monkeypatch):
    documents = issuer.documents()
    secret = OctKey.generate_key(256, {"kid": "secret"})
    documents["/keys"]["keys"].append(secret.as_dict(private=True))
    monkeypatch.setattr(issuer, "documents", lambda: documents)
    known = trusting(issuer)
    identity(known, issuer.token())
    assert known._names == {"one"}


def test_one_key_that_is_not_understood_costs_only_itself(issuer, monkeypatch):
    documents = issuer.documents()
    x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
    documents["/keys"]["keys"] += [
        {"kty": "EC", "crv": "P-999", "x": x, "y": x, "kid": "new"},
        {"kty": "OKP", "crv": "Curve-of-tomorrow", "x": x, "kid": "newer"},
        {"kty": "RSA", "n": 3, "e": None, "kid": "broken"},
        {"kty": "post-quantum", "kid": "far"},
        {"kid": "none"},
        "a word",
    ]
    monkeypatch.setattr(issuer, "documents", lambda: documents)
    known = trusting(issuer)
    assert identity(known, issuer.token()).scopes == {"score"}
    assert known._names == {"one"}


@pytest.mark.parametrize("claim", [{"scope": 7}, {"scope": True}, {"scp": 1.5}, {"exp": 10**400}])
def test_claims_of_another_shape_are_a_refused_token(issuer, claim):
    assert refused(trusting(issuer), issuer.token(**claim)).code == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "fault",
    [
        http.client.IncompleteRead(b""),
        http.client.BadStatusLine(""),
        RecursionError(),
        UsageError("must begin with https://"),
        AttributeError(),
    ],
)
def test_an_issuer_that_answers_nonsense_is_away_and_its_known_keys_serve(
    issuer, monkeypatch, fault
):
    known = trusting(issuer)
    assert identity(known, issuer.token()).scopes == {"score"}

    def fail(_address):
        raise fault

    monkeypatch.setattr(tokens, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(tokens, "BETWEEN_FETCHES", 0.0)
    known._fetch = fail
    assert identity(known, issuer.token(scope="hilum:admin")).scopes == {"admin"}
    never = trusting(issuer)
    never._fetch = fail
    assert refused(never, issuer.token()).code == "ISSUER_AWAY"


def test_settings_that_would_trust_anybody_are_refused(issuer):
    with pytest.raises(UsageError, match="https"):
        trusting(issuer, oidc_issuer="http://issuer.example")
    with pytest.raises(UsageError, match="meant for this service"):
        trusting(issuer, oidc_audience="")
