"""An OpenID Connect issuer for tests: a real HTTP server, real keys, tokens signed by them."""

import http.server
import json
import threading
import time
from contextlib import contextmanager

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

AUDIENCE = "hilum-service"


class Issuer:
    """A discovery document, a set of keys, and how often each was asked for."""

    def __init__(self):
        self.url = ""
        self.keys = []
        self.asked = []
        self.away = False
        self.add("one")

    def add(self, name):
        self.keys.append(RSAKey.generate_key(2048, {"kid": name, "use": "sig"}, auto_kid=False))

    def token(self, *, key=None, alg="RS256", scope="hilum:score", header=None, **changes):
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "erika.muster@hospital.example",
            "exp": int(time.time()) + 300,
            "scope": scope,
        } | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        key = key or self.keys[-1]
        head = {"alg": alg, "kid": getattr(key, "kid", None) or "one"} | (header or {})
        return jwt.encode(head, claims, key, algorithms=[alg])

    def documents(self):
        return {
            "/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
            },
            "/keys": KeySet(list(self.keys)).as_dict(private=False),
        }


@contextmanager
def issuing():
    """Run an issuer on this machine until the block ends."""
    issuer = Issuer()

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            issuer.asked.append(self.path)
            tree = None if issuer.away else issuer.documents().get(self.path)
            body = json.dumps(tree).encode()
            self.send_response(200 if tree else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        issuer.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
