"""What runs inside the enclave, and what it needs of files, arguments and environment: our own server, or
TensorFlow's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sealserve.addresses import Address
from sealserve.deploy.deployment import Deployment
from sealserve.deploy.images.layout import (
    GRPC_PORT,
    KEY_NAME,
    METRICS_PORT,
    REST_PORT,
    SEALED_DIRECTORY,
    SSL_CONFIG,
    STOP_GRACE,
    ImageLayout,
)
from sealserve.deploy.images.sizing import EnclavePlan
from sealserve.errors import ConfigurationError

_EVERYWHERE = "0.0.0.0"  # noqa: S104 - of the container
_LOCALE = ("C.UTF-8", "The same words and numbers everywhere.")
_WHY_SEALED_IS_ALLOWED = (
    "This is the sealed model, which the replica reads as any file and checks by itself: every block is authenticated "
    "under the key that the broker gives, and the whole against the digest that the broker names, so that neither a "
    "changed file nor an older model gets through. An encrypted mount would need the key before the replica starts, "
    "and could not tell an older model."
)
_WHY_PRELOADED = (
    "Gramine's client of the key broker. Before main it proves to the broker what this enclave is, and puts the key "
    "that it gets in the place of the encrypted mounts' key."
)
_WHY_AUTHORITY = (
    "Who vouches for a key broker. Measured: a broker of the host's own could hand out a key of its own, and a model "
    "and certificate under it."
)
_RESERVED_MOUNTS = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc", "/sys", "/tmp", "/usr")  # noqa: S108


@dataclass(frozen=True)
class Program:
    """What a manifest is rendered from.

    :param mounts: paths of the image that the enclave sees under the same name.
    :param environment: name → (value, why). :param allowed: URI → why the host may choose what is there.
    :param encrypted: encrypted mounts, by path. :param key_name: the name of their key.
    """

    title: str
    entrypoint: str
    arguments: tuple[str, ...]
    environment: Mapping[str, tuple[str, str]]
    mounts: tuple[str, ...]
    trusted_files: tuple[str, ...]
    subprocess_reason: str
    allowed: Mapping[str, str] = field(default_factory=dict)
    encrypted: tuple[str, ...] = ()
    key_name: str = KEY_NAME


def program_of(deployment: Deployment, plan: EnclavePlan, layout: ImageLayout) -> Program:
    """What the deployment's replicas run.

    :raises ConfigurationError: the deployment is for no enclave, or asks for what the engine cannot do in one.
    """
    if deployment.tee != "sgx":
        raise ConfigurationError(
            f"images are for tee: sgx, and this deployment has tee: {deployment.tee}",
            hint="Set tee: sgx in deployment.yaml. `sealserve up` runs tee: simulated without any image.",
        )
    if any(address.port == 0 for address in brokers_of(deployment)):
        raise ConfigurationError(
            "image.brokers: port 0 is none that a replica could connect to",
            hint="Name the brokers' addresses under image.brokers, or give broker.listen a port.",
        )
    own = deployment.model.engine != "tensorflow-serving"
    return _own_server(deployment, plan, layout) if own else _tensorflow_serving(deployment, plan, layout)


def _own_server(deployment: Deployment, plan: EnclavePlan, layout: ImageLayout) -> Program:
    brokers = [option for address in brokers_of(deployment) for option in ("--broker", str(address))]
    rest = ["--rest-listen", f"{_EVERYWHERE}:{REST_PORT}"] if deployment.gateway.rest_listen else []
    metrics = ["--metrics-listen", f"{_EVERYWHERE}:{METRICS_PORT}"] if deployment.tells_metrics else []
    return Program(
        title=f"sealserve's own server ({deployment.model.engine}), version 2 of the key broker's protocol",
        entrypoint=layout.python,
        arguments=(
            *(layout.python, "-P", "-s", "-m", "sealserve", "replica"),
            *("--tee", "sgx", "--deployment", deployment.name),
            *("--listen", f"{_EVERYWHERE}:{GRPC_PORT}", *rest, *metrics),
            *("--server-name", deployment.tls.server_name),
            *("--sealed", SEALED_DIRECTORY, "--most-threads", str(plan.computing)),
            *("--stop-grace", str(STOP_GRACE), "--max-connection-age", str(connection_age(deployment))),
            *(*brokers, "--broker-ca", layout.broker_ca, "--keep-asking", "--json-logs"),
        ),
        environment={
            "LC_ALL": _LOCALE,
            "LD_LIBRARY_PATH": (f"/lib:{layout.libraries}", "Gramine's C library first."),
            "PYTHONPATH": (layout.packages, "sealserve and what it needs."),
            "PYTHONDONTWRITEBYTECODE": ("1", "Compiled modules are files of the image: measured, never written."),
            "TMPDIR": ("/tmp", "In the enclave's own memory."),  # noqa: S108
        },
        mounts=(
            layout.python,
            layout.standard_library,
            layout.packages,
            layout.libraries,
            layout.broker_ca,
            SEALED_DIRECTORY,
        ),
        trusted_files=(
            f"file:{layout.runtime}/",
            f"file:{layout.python}",
            f"file:{layout.standard_library}/",
            f"file:{layout.packages}/",
            f"file:{layout.libraries}/",
            f"file:{layout.broker_ca}",
        ),
        allowed={f"file:{SEALED_DIRECTORY}/": _WHY_SEALED_IS_ALLOWED},
        subprocess_reason="A replica starts no processes; each would be an enclave of the same size.",
    )


def _tensorflow_serving(deployment: Deployment, plan: EnclavePlan, layout: ImageLayout) -> Program:
    if deployment.gateway.rest_listen is not None:
        raise ConfigurationError(
            "gateway.rest_listen: the REST port of tensorflow_model_server has no TLS, so that the host would read "
            "inputs and answers",
            hint="Take gateway.rest_listen out, or use model.engine: openvino or tensorflow, which have REST over TLS.",
        )
    mount = deployment.model.mount_path
    if any(mount == taken or mount.startswith(f"{taken}/") for taken in (*_RESERVED_MOUNTS, "/tls")):
        raise ConfigurationError(
            f"model.mount: {mount} is taken inside the image", hint="Use the default, /models/NAME, and seal with it."
        )
    if any(":" in address.host for address in brokers_of(deployment)):
        raise ConfigurationError(
            "image.brokers: Gramine's client of the key broker, which tensorflow-serving has, reads no IPv6 addresses",
            hint="Give the brokers' DNS names.",
        )
    batching = deployment.model.batching is not None
    computing = str(plan.computing)
    brokers = ",".join(str(address) for address in brokers_of(deployment))
    batching_arguments = ["--enable_batching=true", f"--batching_parameters_file={layout.batching}"] if batching else []
    batching_files = (layout.batching,) if batching else ()
    return Program(
        title="the unmodified tensorflow_model_server, with version 1 of the key broker's protocol",
        entrypoint=layout.model_server,
        arguments=(
            "tensorflow_model_server",
            f"--port={GRPC_PORT}",
            "--rest_api_port=0",
            f"--model_name={deployment.model.name}",
            f"--model_base_path={mount}",
            f"--ssl_config_file={SSL_CONFIG}",
            "--file_system_poll_wait_seconds=0",
            "--flush_filesystem_caches=false",
            f"--tensorflow_intra_op_parallelism={computing}",
            f"--tensorflow_inter_op_parallelism={max(2, plan.computing // 4)}",
            "--grpc_max_threads=32",
            f"--grpc_channel_arguments=grpc.max_connection_age_ms={connection_age(deployment) * 1000}",
            *batching_arguments,
        ),
        environment={
            "LC_ALL": _LOCALE,
            "LD_LIBRARY_PATH": (f"/lib:{layout.libraries}", "Gramine's C library first."),
            "LD_PRELOAD": (layout.secret_provisioning, _WHY_PRELOADED),
            "SECRET_PROVISION_CONSTRUCTOR": ("1", "Do that before main."),
            "SECRET_PROVISION_SET_KEY": (KEY_NAME, "The name of the encrypted mounts' key."),
            "SECRET_PROVISION_SERVERS": (brokers, "The key brokers, in the order in which they are tried."),
            "SECRET_PROVISION_CA_CHAIN_PATH": (layout.broker_ca, _WHY_AUTHORITY),
        },
        mounts=(layout.model_server, layout.libraries, layout.broker_ca, *batching_files),
        trusted_files=(
            f"file:{layout.runtime}/",
            f"file:{layout.model_server}",
            f"file:{layout.libraries}/",
            f"file:{layout.broker_ca}",
            *(f"file:{path}" for path in batching_files),
        ),
        encrypted=(mount, SSL_CONFIG),
        subprocess_reason="tensorflow_model_server starts no processes; each would be an enclave of the same size.",
    )


def brokers_of(deployment: Deployment) -> list[Address]:
    """Where replicas find the key brokers."""
    return deployment.image.brokers or [deployment.broker.listen.reachable_here()]


def connection_age(deployment: Deployment) -> int:
    """Seconds after which a replica closes a connection in good order. Behind a balancer of connections, a client that
    keeps one for ever would never come to a replica that was started since.

    A new connection to an enclave that a client knows costs a handshake. Where enclaves share their owner's TLS key, it
    costs a quote, because the key does not say which of them it is: connections are kept longer there.
    """
    asked_each_time = deployment.tls.mode != "attested" and deployment.model.engine != "tensorflow-serving"
    return 30 if asked_each_time else 5
