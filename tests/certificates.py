"""Real certificates, made when they are asked for: authorities, and what they sign."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM
NOW = datetime.datetime.now(datetime.UTC)  # noqa: TID251
DAY = datetime.timedelta(days=1)


@dataclass
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path
    certificate: x509.Certificate
    private: ec.EllipticCurvePrivateKey

    @property
    def both(self) -> Path:
        """Certificate and key in one file."""
        file = self.cert.with_suffix(".both.pem")
        file.write_bytes(self.cert.read_bytes() + self.key.read_bytes())
        return file


def make(directory: Path, name: str, signer: Pair | None = None, *, ca: bool = False, expired: bool = False) -> Pair:
    """A certificate for `name` and this machine, signed by `signer`, or by itself."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = signer.certificate.subject if signer else subject
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 3 * DAY)
        .not_valid_after(NOW - DAY if expired else NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    )
    certificate = builder.sign(signer.private if signer else private, hashes.SHA256())
    pair = Pair(directory / f"{name}.pem", directory / f"{name}.key", certificate, private)
    write(pair)
    return pair


def write(pair: Pair, as_: Pair | None = None) -> None:
    """Write the files of `pair`, in the place of those of `as_`."""
    place = as_ or pair
    place.cert.write_bytes(pair.certificate.public_bytes(PEM))
    no_password = serialization.NoEncryption()
    place.key.write_bytes(pair.private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, no_password))
