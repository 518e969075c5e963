"""An authority of the cluster's own, and certificates that it signs (`elect certs`)."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from electorate.cli.invocation import elect
from electorate.errors import UserError
from electorate.runtime.tls import identity

LONGEST = 36500
"""For how many days at most a certificate is valid."""
LONGEST_NAME = 64 - len("electorate ")


def make_authority(cluster: str, directory: Path, days: int) -> None:
    """ca.pem, which every node gets, and ca.key, which none does."""
    if len(cluster) > LONGEST_NAME:
        raise UserError(
            f"--cluster {cluster}: a certificate has room for {LONGEST_NAME} characters of its name"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--dir {directory} cannot be made: {error.strerror}") from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"electorate {cluster}")])
    builder = certificate(name, name, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage(signs_certificates=True), critical=True)
    write(directory / "ca.key", private(key), 0o600)
    write(directory / "ca.pem", public(builder.sign(key, hashes.SHA256())), 0o644)


def issue_certificate(id: str, directory: Path, days: int, force: bool = False) -> None:
    """A certificate and a key for this node, signed by the authority in the directory."""
    if not id or "/" in id:
        raise UserError(f"'{id}' is no id of a node")
    if id == "ca":
        raise UserError("'ca' is what the files of the authority are called; give the node another id")
    authority, key = read_authority(directory)
    [named] = authority.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    cluster = str(named.value).removeprefix("electorate ")
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, id[:64])])
    builder = certificate(name, authority.subject, own.public_key(), days)
    names = [x509.UniformResourceIdentifier(identity(cluster, id))]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(usage(), critical=True)
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(both, critical=False)
    otherwise = ", or add --force"
    write(directory / f"{id}.key", private(own), 0o600, force, otherwise)
    write(directory / f"{id}.pem", public(builder.sign(key, hashes.SHA256())), 0o644, force, otherwise)


def certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    """Valid from an hour ago, because clocks differ."""
    if not 1 <= days <= LONGEST:
        raise UserError(f"--days {days}: a certificate is valid for 1 to {LONGEST} days")
    begin = datetime.now(UTC) - timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(begin).not_valid_after(begin + timedelta(days=days))


def usage(signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def read_authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        authority = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    except OSError as error:
        raise UserError(
            f"{error.filename}: {error.strerror}; `{elect()} certs init --dir {directory}` makes an authority"
        ) from None
    except (ValueError, TypeError):
        raise UserError(f"{directory}/ca.pem and ca.key are not what `elect certs init` made") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{directory}/ca.key is not what `elect certs init` made")
    return authority, key


def private(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def write(path: Path, content: bytes, mode: int, force: bool = False, otherwise: str = "") -> None:
    """Never over what is there, unless that is wished; whoever reads it meanwhile sees the old or the new."""
    if path.exists() and not force:
        raise UserError(f"{path} is there already; move it away{otherwise}")
    new = path.with_name(path.name + ".new")
    try:
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        new.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
