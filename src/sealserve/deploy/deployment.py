"""``deployment.yaml``: what one deployment is. Every command that runs or renders a deployment reads this file.

Only values that work exist here. The field descriptions are the documentation: :mod:`sealserve.deploy.template` renders
the commented file that ``sealserve init`` writes from them.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from sealserve.addresses import Address, is_dns_name
from sealserve.configuration import SettingError, Settings, load_yaml
from sealserve.deploy.clouds import load_profile
from sealserve.deploy.field_types import AddressText, DatabaseText, PathText
from sealserve.deploy.image_section import ImageSection
from sealserve.deploy.kubernetes_section import KubernetesSection
from sealserve.errors import ConfigurationError, InputError

FILE_NAME = "deployment.yaml"


class ModelSection(Settings):
    name: str = Field(
        description="The name that clients call it by.",
        examples=["classifier"],
    )
    path: PathText = Field(
        description="Base directory as TensorFlow Serving has it: one SavedModel in each numbered directory "
        "(model/1/saved_model.pb). The highest number is served. Relative paths start at this file.",
        examples=["model"],
    )
    mount: str | None = Field(
        default=None,
        description="Where replicas see the sealed model. The path is sealed into every file, so that a file cannot "
        "pass for another. /models/NAME if not given.",
        examples=["/models/classifier"],
    )
    engine: Literal["openvino", "tensorflow", "tensorflow-serving"] = Field(
        default="openvino",
        description="What runs the model. tensorflow runs every graph and is slower; it is an extra of its own: "
        "pip install '.[tensorflow]'. tensorflow-serving is the unmodified tensorflow_model_server under Gramine, with "
        "tee: sgx only; its TLS is what its sealed ssl.cfg says.",
    )
    precision: Literal["f32", "bf16", "f16"] = Field(
        default="f32",
        description="What openvino computes in. With f32 answers agree with TensorFlow's within 1e-4; bf16 is quicker "
        "on processors that have it, and moves answers visibly.",
    )
    batching: PathText | None = Field(
        default=None,
        description="A file of TensorFlow Serving's batching parameters, as its --batching_parameters_file: replicas "
        "answer several requests in one run then. No batching if not given. Relative paths start at this file.",
        examples=["batching.pbtxt"],
    )

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
            raise ValueError("must be 1 to 64 letters, digits, '.', '_' and '-', with a letter or digit first")
        return value

    @field_validator("mount")
    @classmethod
    def _mount_is_a_clean_path(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", value) or {".", ".."} & set(value.split("/")):
            raise ValueError("must be an absolute path of letters, digits, '.', '_' and '-'")
        return value

    @property
    def mount_path(self) -> str:
        """Where replicas see the sealed model."""
        return self.mount or f"/models/{self.name}"


TlsMode = Literal["attested", "one-way", "two-way"]


class TlsSection(Settings):
    mode: TlsMode = Field(
        default="attested",
        description="What replicas show. attested: a key made inside the enclave, which evidence vouches for. one-way: "
        "a certificate of yours, which ordinary TLS clients know too; evidence vouches for its key. two-way: the "
        "same, and clients have to show a certificate of yours.",
    )
    server_name: str = Field(
        default="replica.sealserve.internal",
        description="The server name (SNI) that replicas answer to and the gateway routes by. It needs no DNS entry.",
    )
    certificate: PathText | None = Field(
        default=None,
        description="With one-way and two-way, a certificate that you have already for server_name, in PEM, and after "
        "it those that lead to its root. One is made if not given. Relative paths start at this file.",
        examples=["server.pem"],
    )
    private_key: PathText | None = Field(
        default=None, description="Its private key: PEM, no password, mode 0600.", examples=["server-key.pem"]
    )
    authority: PathText | None = Field(
        default=None, description="What clients check that certificate by, in PEM.", examples=["server-ca.pem"]
    )
    client_authority: PathText | None = Field(
        default=None,
        description="With two-way, certificates in PEM of which one has to have signed every client's. An authority "
        "and one client's certificate are made if not given.",
        examples=["client-ca.pem"],
    )

    @field_validator("server_name")
    @classmethod
    def _server_name_is_a_dns_name(cls, value: str) -> str:
        if not is_dns_name(value) or value.replace(".", "").isdigit():
            raise ValueError("must be a DNS name")
        return value.lower()


class ReplicasSection(Settings):
    count: int = Field(default=2, ge=1, le=1000, description="How many replicas run; on one machine at most 32.")
    threads: int | Literal["auto"] = Field(
        default="auto",
        description="Threads that the engine of each replica computes with. auto: this machine's CPU cores, shared "
        "among the replicas.",
    )

    @field_validator("threads")
    @classmethod
    def _threads_in_range(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 256:
            raise ValueError("must be auto or a number from 1 to 256")
        return value

    @property
    def threads_each(self) -> int:
        """Threads of one replica on this machine."""
        if isinstance(self.threads, int):
            return self.threads
        return max(1, len(os.sched_getaffinity(0)) // self.count)


class BrokerSection(Settings):
    listen: AddressText = Field(
        default=Address("127.0.0.1", 4433),
        description="Address and port of the key broker. Port 0 takes any free one.",
    )
    store: DatabaseText | None = Field(
        default=None,
        description="A PostgreSQL database, empty at first, for what key brokers go by, where several share it. Its "
        "password is not in the URL: passfile=PATH in it names a file. A file in `state` if not given.",
        examples=["postgresql://broker@db.example/keys?sslmode=verify-full&passfile=/etc/sealserve/pgpass"],
    )


class GatewaySection(Settings):
    listen: AddressText = Field(
        default=Address("127.0.0.1", 8500),
        description="Address and port of the gateway, which clients connect to. Port 0 takes any free one.",
    )

    rest_listen: AddressText | None = Field(
        default=None,
        description="The same for REST over TLS, which ends inside the replicas as well. No REST if not given.",
        examples=["127.0.0.1:8501"],
    )

    @field_validator("listen", "rest_listen")
    @classmethod
    def _listen_is_numeric(cls, value: Address | None) -> Address | None:
        if value is None:
            return value
        try:
            ipaddress.ip_address(value.host)
        except ValueError:
            raise ValueError(
                "must have an IP address: nginx takes no name. Write 127.0.0.1:8500, for example"
            ) from None
        return value


class Deployment(Settings):
    """A whole ``deployment.yaml``."""

    name: str = Field(
        description="Name of the deployment: lower-case letters, digits and hyphens. Replicas ask the key broker for "
        "their keys under it.",
        examples=["my-deployment"],
    )
    model: ModelSection = Field(description="The TensorFlow model to serve.")
    tee: Literal["simulated", "sgx", "tdx"] = Field(
        default="simulated",
        description="What the replicas run in. simulated: ordinary processes with evidence under a root of its own. "
        "It shows every step and protects nothing from this machine. sgx: enclaves under Gramine, in the image that "
        "`sealserve image` builds. tdx: TDX guests, each of which starts its replica by itself (docs/tdx.md).",
    )
    cloud: str | None = Field(
        default=None,
        description="The kind of machine that replicas run on, as `sealserve cloud list` has it, with the region where "
        "addresses depend on it. Images, setup and `sealserve doctor` take addresses and sizes from it.",
        examples=["alibaba-g7t:cn-hangzhou"],
    )
    tls: TlsSection = Field(default=TlsSection(), description="TLS between clients and replicas.")
    replicas: ReplicasSection = Field(default=ReplicasSection(), description="The model servers.")
    broker: BrokerSection = Field(
        default=BrokerSection(), description="The key broker, which gives the model's key to attested replicas only."
    )
    gateway: GatewaySection = Field(
        default=GatewaySection(),
        description="nginx, which balances over the replicas and cannot open what it forwards.",
    )
    image: ImageSection = Field(
        default=ImageSection(), description="The image of the replicas, and what is measured of it, for tee: sgx."
    )
    kubernetes: KubernetesSection | None = Field(
        default=None,
        description="The cluster, for `sealserve k8s`; docs/kubernetes.md has an example.",
        examples=[{"image": "registry.example/team/classifier@sha256:..."}],
    )
    state: PathText = Field(
        default=Path(".sealserve"),
        description="Directory for keys, the sealed model, logs and everything else that is made. Relative paths start "
        "at this file.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_label(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
            raise ValueError(
                "must be 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end "
                "(bad: 'My Model', good: my-model)"
            )
        return value

    @field_validator("cloud")
    @classmethod
    def _cloud_is_known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                load_profile(value).require_region()
            except ConfigurationError as error:
                raise ValueError(f"{error.message}. {error.hint}") from None
        return value

    @model_validator(mode="after")
    def _engine_fits_tee(self) -> Self:
        if self.model.engine == "tensorflow-serving" and self.tee != "sgx":
            raise SettingError(("model", "engine"), "tensorflow-serving runs with tee: sgx only")
        return self

    @model_validator(mode="after")
    def _addresses_differ(self) -> Self:
        # What stands in the file is at fault, not a default; of two that do, the later one.
        taken: dict[int, tuple[str, str]] = {}
        for setting, address in sorted(self._addresses().items(), key=lambda item: self._stands_in_file(item[0])):
            if other := taken.get(address.port):
                raise SettingError(setting, f"must not be the same port {address.port} as {'.'.join(other)}'s")
            if address.port:
                taken[address.port] = setting
        return self

    @model_validator(mode="after")
    def _certificates_fit_the_mode(self) -> Self:
        tls = self.tls
        own = {"certificate": tls.certificate, "private_key": tls.private_key, "authority": tls.authority}
        given = [name for name, path in own.items() if path is not None]
        if given and tls.mode == "attested":
            raise SettingError(("tls", given[0]), "goes with mode: one-way or two-way; here replicas make their keys")
        if given and len(given) < len(own):
            missing = " and ".join(name for name in own if name not in given)
            raise SettingError(("tls", given[0]), f"needs {missing} beside it")
        if tls.client_authority is not None and tls.mode != "two-way":
            raise SettingError(("tls", "client_authority"), f"goes with mode: two-way, not {tls.mode}")
        return self

    @property
    def tells_metrics(self) -> bool:
        """Whether replicas have a port for metrics."""
        return self.kubernetes is not None and self.kubernetes.monitoring is not None

    def _addresses(self) -> dict[tuple[str, str], Address]:
        addresses = {("broker", "listen"): self.broker.listen, ("gateway", "listen"): self.gateway.listen}
        if self.gateway.rest_listen is not None:
            addresses["gateway", "rest_listen"] = self.gateway.rest_listen
        return addresses

    def _stands_in_file(self, setting: tuple[str, str]) -> bool:
        section: Settings = getattr(self, setting[0])
        return setting[0] in self.model_fields_set and setting[1] in section.model_fields_set


def load_deployment(path: Path) -> Deployment:
    """Read ``deployment.yaml``; its paths come out absolute.

    :raises InputError: there is no such file. :raises ConfigurationError: it is not valid; the error names the line.
    """
    if not path.exists():
        option = "" if path == Path(FILE_NAME) else f" {shlex.join(['-f', str(path)])}"
        raise InputError(
            f"there is no {path.absolute()}",
            hint=f"`sealserve init{option}` writes one; -f names another file.",
        )
    deployment = load_yaml(path, Deployment)
    base = path.absolute().parent
    model = deployment.model
    batching = None if model.batching is None else _absolute(base, model.batching)
    names = ("certificate", "private_key", "authority", "client_authority")
    files = {name: _absolute(base, path) for name in names if (path := getattr(deployment.tls, name)) is not None}
    image = deployment.image
    broker_ca = None if image.broker_ca is None else _absolute(base, image.broker_ca)
    return deployment.model_copy(
        update={
            "model": model.model_copy(update={"path": _absolute(base, model.path), "batching": batching}),
            "tls": deployment.tls.model_copy(update=files),
            "image": image.model_copy(update={"broker_ca": broker_ca}),
            "state": _absolute(base, deployment.state),
        }
    )


def _absolute(base: Path, path: Path) -> Path:
    return Path(os.path.normpath(base / path.expanduser()))
