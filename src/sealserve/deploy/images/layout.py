"""Where things lie inside an image. The Dockerfile puts them there, and the manifest, which is measured, names them."""

from __future__ import annotations

from dataclasses import dataclass

GRPC_PORT = 8500
REST_PORT = 8501
METRICS_PORT = 8502

STOP_GRACE = 30
"""Seconds that requests in flight have after SIGTERM, where whoever stops the container waits as long."""

KEY_NAME = "default"
"""Under which name the broker's version 1 key opens encrypted mounts: Gramine's own default."""

TLS_DIRECTORY = "/tls"
SSL_CONFIG = f"{TLS_DIRECTORY}/ssl.cfg"
"""``ssl.cfg`` of the tensorflow-serving replica, a sealed file: it must have been sealed under this very path."""

SEALED_DIRECTORY = "/sealed"
"""Where our own server reads the sealed model; the mount path that is sealed into its files is not a path here."""


@dataclass(frozen=True)
class ImageLayout:
    """Absolute paths inside the image.

    :param python: the interpreter itself, not a link to it. :param standard_library: its modules.
    :param packages: sealserve and what it needs, as ``pip install --target`` puts them there.
    :param libraries: shared libraries of the distribution. :param gramine: Gramine's own directory.
    :param broker_ca: certificate authority of the key broker, PEM.
    :param batching: TensorFlow Serving's batching parameters, where the deployment has some.
    :param model_server: ``tensorflow_model_server``.
    """

    python: str = "/usr/bin/python3.12"
    standard_library: str = "/usr/lib/python3.12"
    packages: str = "/opt/sealserve/packages"
    libraries: str = "/usr/lib/x86_64-linux-gnu"
    gramine: str = "/usr/lib/x86_64-linux-gnu/gramine"
    broker_ca: str = "/etc/sealserve/broker-ca.pem"
    batching: str = "/etc/sealserve/batching.pbtxt"
    model_server: str = "/usr/bin/tensorflow_model_server"

    @property
    def runtime(self) -> str:
        """Gramine's C library, which takes the place of the distribution's inside the enclave."""
        return f"{self.gramine}/runtime/glibc"

    @property
    def secret_provisioning(self) -> str:
        """Gramine's client of the key broker's version 1 protocol."""
        return f"{self.libraries}/libsecret_prov_attest.so"
