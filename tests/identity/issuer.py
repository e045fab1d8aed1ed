"""An issuer of tokens whose keys a test rotates, takes away and breaks; it tells how often it was asked for them."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

NAME = "https://login.example.com/realms/a"
AUDIENCE = "https://fabric.example.com/mcp"

Json = dict[str, Any]


@dataclass(frozen=True)
class Signer:
    """A private key, under an id."""

    kid: str
    private: Any
    algorithm: str

    @property
    def public(self) -> Json:
        """Its public half as a JSON Web Key."""
        kinds: dict[str, Callable[..., Json]] = {
            "R": RSAAlgorithm.to_jwk, "P": RSAAlgorithm.to_jwk, "ES": ECAlgorithm.to_jwk, "Ed": OKPAlgorithm.to_jwk
        }  # fmt: skip
        kind = next(kind for start, kind in kinds.items() if self.algorithm.startswith(start))
        return {**kind(self.private.public_key(), as_dict=True), "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def sign(self, said: Json, **header: Any) -> bytes:
        """A token that says this, whatever it is."""
        named = {name: value for name, value in {"kid": self.kid, **header}.items() if value is not None}
        return jwt.PyJWS().encode(json.dumps(said).encode(), self.private, self.algorithm, named).encode()


@cache
def elliptic(kid: str) -> Signer:
    return Signer(kid, ec.generate_private_key(ec.SECP256R1()), "ES256")


@cache
def edwards(kid: str) -> Signer:
    return Signer(kid, ed25519.Ed25519PrivateKey.generate(), "EdDSA")


@cache
def rivest(kid: str, bits: int = 2048) -> Signer:
    return Signer(kid, rsa.generate_private_key(65_537, bits), "RS256")


def claims(**other: Any) -> Json:
    """What a good token says, but for these; `None` leaves one out."""
    now = int(time.time())
    day = 86_400  # some are made when a module is read, long before its tests run
    said = {"iss": NAME, "aud": AUDIENCE, "sub": "ann", "iat": now, "nbf": now, "exp": now + day, **other}
    return {name: value for name, value in said.items() if value is not None}


def by_hand(header: Any, payload: Any, signature: bytes = b"") -> bytes:
    """A token that no library would make."""
    parts = (each if isinstance(each, bytes) else json.dumps(each).encode() for each in (header, payload, signature))
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


@dataclass
class Endpoint:
    """Where the keys are published."""

    url: str = ""
    document: bytes = b""
    status: int = 200
    asked: int = 0
    answer: threading.Event = field(default_factory=threading.Event)
    """Not set: it lets everybody wait."""

    def publish(self, *signers: Signer) -> None:
        """These keys, and no others, from now on."""
        self.document = json.dumps({"keys": [signer.public for signer in signers]}).encode()


@contextmanager
def endpoint(*signers: Signer) -> Generator[Endpoint]:
    """A running endpoint with these keys."""
    served = Endpoint()
    served.answer.set()
    served.publish(*signers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked += 1
            served.answer.wait(10)
            self.send_response(served.status)
            self.send_header("content-length", str(len(served.document)))
            self.end_headers()
            self.wfile.write(served.document)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_address[1]}/jwks.json"
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        try:
            yield served
        finally:
            served.answer.set()
            server.shutdown()
            serving.join()
