"""The script that fetches a repository's keys at build time, with the real curl and gpg."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import ssl
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from sealserve.deploy.certificates import Identity

SCRIPT = Path(__file__).parents[3] / "src/sealserve/deploy/images/files/fetch-key.sh"
ANOTHER = "1" * 40


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """URL of a directory with two keyrings, the environment that trusts it, and the fingerprints of their keys."""
    if not (shutil.which("gpg") and shutil.which("curl")):
        pytest.skip("needs gpg and curl")
    directory = tmp_path_factory.mktemp("keys")
    home = tmp_path_factory.mktemp("gpg")
    gpg = ["gpg", "--batch", "--quiet", "--homedir", home]
    fingerprints = []
    for name in ("one", "two"):
        subprocess.run([*gpg, "--passphrase", "", "--quick-gen-key", name, "ed25519", "sign", "never"], check=True)
        listing = subprocess.run([*gpg, "--with-colons", "-k", name], check=True, capture_output=True, text=True).stdout
        fingerprints.append(next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr")))
    for file, names in (("one.gpg", ["one"]), ("both.gpg", ["one", "two"])):
        subprocess.run([*gpg, "--output", directory / file, "--export", *names], check=True)
    (directory / "none.gpg").write_text("no keyring")
    # The agent that made the keys would stay.
    subprocess.run([shutil.which("gpgconf") or "gpgconf", "--homedir", home, "--kill", "all"], check=False)
    identity = Identity.leaf("keys", ["127.0.0.1"], "server", validity=timedelta(days=1))
    (home / "ca.pem").write_bytes(identity.certificate_pem)
    (home / "both.pem").write_bytes(identity.certificate_pem + identity.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "both.pem")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    environment = {**os.environ, "CURL_CA_BUNDLE": str(home / "ca.pem"), "GNUPGHOME": str(home)}
    yield f"https://127.0.0.1:{server.server_port}", environment, fingerprints
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_keyring_is_kept_if_all_of_its_keys_are_expected(served, tmp_path) -> None:
    url, environment, (one, two) = served

    def fetch(name: str, *expected: str) -> bool:
        target = tmp_path / "fetched.gpg"
        target.unlink(missing_ok=True)
        done = subprocess.run(["/bin/sh", SCRIPT, f"{url}/{name}", target, *expected], check=False, env=environment)
        return done.returncode == 0 and target.exists()

    assert fetch("one.gpg", one)
    assert fetch("one.gpg", two, one)
    assert fetch("both.gpg", one, two)
    assert not fetch("both.gpg", one)
    assert not fetch("one.gpg", ANOTHER)
    assert not fetch("one.gpg", one[-16:])
    assert not fetch("one.gpg")
    assert not fetch("none.gpg", one)
    assert not fetch("missing.gpg", one)
    environment.pop("CURL_CA_BUNDLE")
    assert not fetch("one.gpg", one)
