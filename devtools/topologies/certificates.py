"""Certificates for an hour of testing: an authority, a server and a client that it vouches for. Made by `openssl`."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Certificates", "make_certificates"]


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files. The server's certificate is valid for 127.0.0.1 and localhost."""

    authority: Path
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    client_key: Path

    @property
    def server_arguments(self) -> list[str]:
        """What redis-server is started with: it asks every client for a certificate of the authority."""
        return [
            *("--tls-ca-cert-file", str(self.authority), "--tls-cert-file", str(self.server_certificate)),
            *("--tls-key-file", str(self.server_key), "--tls-auth-clients", "optional", "--tls-replication", "yes"),
        ]


def make_certificates(directory: Path) -> Certificates:
    """Writes new certificates into `directory`. Raises FileNotFoundError where there is no openssl."""
    directory.mkdir(parents=True, exist_ok=True)
    found = Certificates(
        *(directory / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key"))
    )
    authority_key = directory / "ca.key"
    _openssl("req", "-x509", *_new_key(authority_key), "-days", "1", "-subj", "/CN=test CA", "-out", found.authority)
    for certificate, key in (
        (found.server_certificate, found.server_key),
        (found.client_certificate, found.client_key),
    ):
        request = directory / f"{certificate.stem}.csr"
        extensions = directory / f"{certificate.stem}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n", encoding="ascii")
        _openssl("req", *_new_key(key), "-subj", f"/CN={certificate.stem}", "-out", request)
        signed_by = ("-CA", found.authority, "-CAkey", authority_key, "-CAcreateserial")
        _openssl("x509", "-req", "-in", request, *signed_by, "-days", "1", "-extfile", extensions, "-out", certificate)
    return found


def _new_key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", path)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)
