"""What the owner's key broker goes by: ``broker.yaml``, and in its store the key, the policy and the grant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from sealserve.addresses import Address
from sealserve.broker.administration import BrokerAdministration
from sealserve.broker.settings import BrokerSettings
from sealserve.broker.store import GrantDocument, StoredPolicy
from sealserve.deploy import Deployment
from sealserve.deploy.grant_arguments import grant_arguments
from sealserve.files import PRIVATE, write_atomically
from sealserve.local.layout import Layout
from sealserve.local.tls import granted_tls
from sealserve.sealing import read_wrap_key

KEY_NAME = "model"
"""The wrap key's name at the broker."""

POLICY_NAME = "replicas"
"""The replicas' policy's name at the broker."""


@dataclass(frozen=True)
class PreparedModel:
    """The sealed model.

    :param version: the one to serve. :param digest: of the list of files, 32 bytes.
    :param size: of the plaintext, in bytes. :param newly_sealed: whether this run sealed it.
    """

    version: int
    digest: bytes
    files: int
    size: int
    newly_sealed: bool


def write_broker_configuration(layout: Layout, *, broker: Address, store: str | None = None) -> None:
    """``broker.yaml``, for a broker that listens at ``broker``.

    :param store: URL of a database for the store; it is a file if not given.
    """
    write_yaml(
        layout.broker_configuration,
        "The key broker.",
        {
            "listen": str(broker),
            "certificate": layout.broker_certificate.name,
            "private_key": layout.broker_key.name,
            "store": store or layout.store.name,
            "master_key": layout.master_key.name,
        },
    )


def fill_store(deployment: Deployment, layout: Layout, model: PreparedModel, *, threads: int) -> None:
    """What the broker grants. Nothing is written if the store holds it already.

    :param threads: that the engine of each replica computes with.
    """
    with (
        BrokerSettings.load(layout.broker_configuration).create_store(actor="local cluster") as store,
        read_wrap_key(layout.wrap_key) as wrap_key,
    ):
        administration = BrokerAdministration(store, actor="local cluster")
        key = administration.ensure_key(KEY_NAME, wrap_key)
        policy = administration.put_policy(StoredPolicy.from_file(POLICY_NAME, layout.replica_policy))
        for other in administration.grants():
            if other.deployment != deployment.name:
                administration.delete_grant(other.deployment)
        tls = granted_tls(deployment, layout, administration)
        administration.put_grant(
            GrantDocument.model_validate(
                {
                    "deployment": deployment.name,
                    "policy": policy.name,
                    "keys": {key.name: key.version},
                    "model": {
                        "name": deployment.model.name,
                        "version": model.version,
                        "digest": model.digest.hex(),
                        "mount": deployment.model.mount_path,
                        "key": key.name,
                    },
                    "arguments": grant_arguments(deployment, threads=threads),
                    "tls": tls,
                    # The unmodified model server speaks no other protocol.
                    "version_1": {"key": key.name} if deployment.model.engine == "tensorflow-serving" else None,
                }
            )
        )


def write_yaml(path: Path, comment: str, content: object, *, mode: int = PRIVATE) -> None:
    """A file that is written anew each time."""
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(path, f"# {comment} Written by sealserve; changes are lost the next time.\n{text}", mode=mode)
