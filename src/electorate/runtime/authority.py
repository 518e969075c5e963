"""An authority of the cluster's own, and certificates that it signs: made by `elect certs` and kept in files,
or derived from a secret that all nodes share (`secret`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from electorate.errors import UserError
from electorate.runtime import private
from electorate.runtime.private import write
from electorate.runtime.tls import identity

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

LONGEST = 36500
"""For how many days at most a certificate is valid."""
LONGEST_NAME = 64 - len("electorate ")


BEGIN, END = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""When an authority is good that was derived."""


class Authority(NamedTuple):
    """A certificate that signs others, and its key."""

    certificate: x509.Certificate
    key: PrivateKey

    @classmethod
    def make(
        cls, key: PrivateKey, name: str, begin: datetime, end: datetime, serial: int | None = None
    ) -> Authority:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = certificate(subject, subject, key, key, begin, end, serial)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage(signs_certificates=True), critical=True)
        return cls(sign(builder, key), key)

    @classmethod
    def of(cls, seed: bytes) -> Authority:
        """The one that 32 bytes stand for: the same certificate, whoever makes it."""
        key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        return cls.make(key, "electorate", BEGIN, END, serial=1)

    @property
    def pem(self) -> str:
        return public(self.certificate).decode()

    def issue(self, cluster: str, id: str, begin: datetime, end: datetime) -> tuple[bytes, bytes]:
        """A certificate that names this node of this cluster, and its key, as PEM."""
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, id[:64])])
        builder = certificate(subject, self.certificate.subject, own, self.key, begin, end)
        names = [x509.UniformResourceIdentifier(identity(cluster, id))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(usage(), critical=True)
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(both, critical=False)
        return public(sign(builder, self.key)), pem_of(own)


def certificate(
    subject: x509.Name,
    issuer: x509.Name,
    own: PrivateKey,
    signer: PrivateKey,
    begin: datetime,
    end: datetime,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    """It names its own key and its issuer's: of two authorities of one name the right one is found."""
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(own.public_key())
    builder = builder.serial_number(serial or x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(end)
    mine = x509.SubjectKeyIdentifier.from_public_key(own.public_key())
    theirs = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return builder.add_extension(mine, critical=False).add_extension(theirs, critical=False)


def sign(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


# --- in files -----------------------------------------------------------------------------------


def make_authority(cluster: str, directory: Path, days: int) -> None:
    """ca.pem, which every node gets, and ca.key, which none does."""
    if len(cluster) > LONGEST_NAME:
        raise UserError(
            f"--cluster {cluster}: a certificate has room for {LONGEST_NAME} characters of its name"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--dir {directory}: there is a file in its place; name another directory") from None
    except OSError as error:
        raise UserError(f"--dir {directory} cannot be made: {error.strerror}") from None
    key = ec.generate_private_key(ec.SECP256R1())
    made = Authority.make(key, f"electorate {cluster}", *validity(days))
    write(directory / "ca.key", pem_of(key), 0o600)
    write(directory / "ca.pem", public(made.certificate), 0o644)


def issue_certificate(id: str, directory: Path, days: int, force: bool = False) -> None:
    """A certificate and a key for this node, signed by the authority in the directory."""
    if not id or "/" in id:
        raise UserError(f"'{id}' is no id of a node")
    if id == "ca":
        raise UserError("'ca' is what the files of the authority are called; give the node another id")
    authority = read_authority(directory)
    [named] = authority.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    cert, key = authority.issue(str(named.value).removeprefix("electorate "), id, *validity(days))
    otherwise = ", or add --force"
    write(directory / f"{id}.key", key, 0o600, force, otherwise)
    write(directory / f"{id}.pem", cert, 0o644, force, otherwise)


def revoke_certificates(ids: Sequence[str], directory: Path, days: int) -> None:
    """Put the certificates of these nodes, as they are in the directory, on the list of the revoked, crl.pem.
    Without any, make that anew."""
    if "ca" in ids:
        raise UserError("an authority cannot be revoked: take its certificate out of tls.ca on each node")
    authority = read_authority(directory)
    begin, end = validity(days)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(begin).next_update(end)
    theirs = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(theirs, critical=False)
    list = directory / "crl.pem"
    known = revoked_before(list, authority)
    serials = {serial_signed(directory / f"{id}.pem", authority) for id in ids}
    for each in known:
        if each.serial_number not in serials:
            builder = builder.add_revoked_certificate(each)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin)
        builder = builder.add_revoked_certificate(entry.build())
    made = builder.sign(authority.key, hashes.SHA256())
    write(list, made.public_bytes(serialization.Encoding.PEM), 0o644, force=True)


def revoked_before(path: Path, authority: Authority) -> Iterable[x509.RevokedCertificate]:
    """What is on the list, if there is one: of this authority, since what is of another could not be kept."""
    try:
        content = path.read_bytes()
        known = x509.load_pem_x509_crl(content)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} must be what `elect certs revoke` made") from None
    if content.count(b"-----BEGIN X509 CRL") > 1:
        raise UserError(
            f"{path} has several lists: keep that of this authority alone there, and join them elsewhere"
        )
    if not known.is_signature_valid(authority.key.public_key()):
        raise UserError(f"{path} is the list of another authority than ca.pem there; move it away")
    return known


def serial_signed(path: Path, authority: Authority) -> int:
    """The number of this certificate, which this authority can revoke."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority.certificate)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, InvalidSignature):
        raise UserError(
            f"{path} is no certificate that ca.pem there has signed: only who signed it can revoke it"
        ) from None
    return certificate.serial_number


def validity(days: int) -> tuple[datetime, datetime]:
    """From an hour ago, because clocks differ."""
    if not 1 <= days <= LONGEST:
        raise UserError(f"--days {days}: a certificate is valid for 1 to {LONGEST} days")
    begin = datetime.now(UTC) - timedelta(hours=1)
    return begin, begin + timedelta(days=days)


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


def read_authority(directory: Path) -> Authority:
    strange = f"{directory}/ca.pem and ca.key are not what `elect certs init` made"
    for name in ("ca.pem", "ca.key"):
        if not (directory / name).exists():
            raise UserError(
                f"{directory / name}: No such file; `elect certs init --dir {directory}` makes an authority"
            )
    try:
        key = serialization.load_pem_private_key(private.read(directory / "ca.key", "the key"), None)
        signer = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise UserError(strange) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(strange)
    return Authority(signer, key)


def pem_of(key: PrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
