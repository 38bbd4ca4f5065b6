"""Certificates for servers on loopback, from a certificate authority that only these tests trust."""

import contextlib
import ssl
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = ("localhost", "127.0.0.1")
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """
    A certificate authority that keeps its files in *folder*.

    `bundle` is the file that a client trusts, as in `AWS_CA_BUNDLE`. *key_type* is the type of all keys: RSA with 2048
    bits, as AWS's endpoints use, or elliptic curves, which are faster to generate.
    """

    folder: Path
    key_type: Literal["RSA", "EC"] = "EC"
    bundle: Path = field(init=False)
    _key: _Key = field(init=False, repr=False)
    _certificate: x509.Certificate = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Create the authority's own certificate."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = self._new_key()
        name = _name(f"authority {self.folder.name}")
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            _builder(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        bundle = self.folder / "authority.pem"
        bundle.write_bytes(_pem(certificate))
        for attribute, value in (("_key", key), ("_certificate", certificate), ("bundle", bundle)):
            object.__setattr__(self, attribute, value)

    def issue(self, names: Iterable[str] = LOOPBACK, *, expired: bool = False) -> Path:
        """Return a file with a new key and a certificate for these host names and addresses."""
        names = tuple(names)
        key = self._new_key()
        parent = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        certificate = (
            _builder(_name(names[0]), self._certificate.subject, key, expired=expired)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(parent),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        path = self.folder / f"{names[0]}{'-expired' * expired}-{certificate.serial_number:x}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + _pem(certificate))
        return path

    def server(
        self, names: Iterable[str] = LOOPBACK, *, expired: bool = False, clients: bool = False
    ) -> ssl.SSLContext:
        """Return the TLS context of a server; *clients*: require client certificates of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.issue(names, expired=expired))
        if clients:
            context.load_verify_locations(self.bundle)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _new_key(self) -> _Key:
        if self.key_type == "RSA":
            return rsa.generate_private_key(65537, 2048)
        return ec.generate_private_key(ec.SECP256R1())


def _builder(subject: x509.Name, issuer: x509.Name, key: _Key, *, expired: bool = False) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=-1 if expired else 2))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@contextlib.contextmanager
def contexts_made() -> Iterator[list[str]]:
    """
    Yield a list that grows by one thread name for each TLS context that loads trusted certificates inside the block.

    It covers the thread that enters the block and the threads that start within it. A context counts only when it reads
    the certificates to trust, because that is the slow part; the SDK also makes contexts that never do.
    """
    threads: list[str] = []

    def see(_: FrameType, event: str, function: object) -> None:
        if event == "c_call" and getattr(function, "__name__", "") in _TRUSTING:
            threads.append(threading.current_thread().name)

    threading.setprofile(see)
    sys.setprofile(see)
    try:
        yield threads
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


_TRUSTING = {"load_verify_locations", "set_default_verify_paths"}
