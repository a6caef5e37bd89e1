"""Where a local cluster keeps its things: one directory, divided by the party that owns what is in it.

Everything may be looked at. What lies in ``platform/`` is what an operator sees who is trusted with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sealserve.files import make_directory
from sealserve.local.ownership import require_own


@dataclass(frozen=True)
class Layout:
    """The paths below the working directory ``root`` (absolute)."""

    root: Path

    # --- the model owner: the keys, the broker and its policy ---

    @property
    def owner(self) -> Path:
        return self.root / "owner"

    @property
    def wrap_key(self) -> Path:
        return self.owner / "wrap.key"

    @property
    def authority_key(self) -> Path:
        return self.owner / "ca-key.pem"

    @property
    def authority(self) -> Path:
        return self.owner / "ca.pem"

    @property
    def broker_key(self) -> Path:
        return self.owner / "broker-key.pem"

    @property
    def broker_certificate(self) -> Path:
        return self.owner / "broker.pem"

    @property
    def broker_configuration(self) -> Path:
        return self.owner / "broker.yaml"

    @property
    def replica_policy(self) -> Path:
        return self.owner / "replica-policy.yaml"

    @property
    def owner_trust_root(self) -> Path:
        return self.owner / "platform-root.pem"

    @property
    def store(self) -> Path:
        """The broker's store: its keys (encrypted), policy, grant and audit log."""
        return self.owner / "broker.db"

    @property
    def master_key(self) -> Path:
        """What the store is encrypted under."""
        return self.owner / "master.key"

    # --- and, with one-way and two-way TLS, what replicas show and ask for ---

    @property
    def server_authority_key(self) -> Path:
        return self.owner / "server-ca-key.pem"

    @property
    def server_authority(self) -> Path:
        return self.owner / "server-ca.pem"

    @property
    def server_key(self) -> Path:
        """It reaches replicas by the broker alone."""
        return self.owner / "server-key.pem"

    @property
    def server_certificate(self) -> Path:
        return self.owner / "server.pem"

    @property
    def client_authority_key(self) -> Path:
        return self.owner / "client-ca-key.pem"

    @property
    def client_authority(self) -> Path:
        return self.owner / "client-ca.pem"

    # --- the platform: it sees ciphertext only ---

    @property
    def platform(self) -> Path:
        return self.root / "platform"

    @property
    def simulated_platform(self) -> Path:
        return self.platform / "simulated"

    @property
    def sealed_model(self) -> Path:
        return self.platform / "sealed"

    @property
    def replica_authority(self) -> Path:
        """A copy of the broker's certificate authority, which replicas are measured with."""
        return self.platform / "broker-ca.pem"

    @property
    def nginx(self) -> Path:
        return self.platform / "nginx"

    @property
    def nginx_configuration(self) -> Path:
        return self.nginx / "nginx.conf"

    @property
    def logs(self) -> Path:
        return self.platform / "logs"

    @property
    def temporary(self) -> Path:
        """TMPDIR of the replicas."""
        return self.platform / "tmp"

    def log(self, name: str) -> Path:
        """The log of the process ``name``. The broker's is its owner's: it says why it refuses whom."""
        return (self.owner if name == "broker" else self.logs) / f"{name}.log"

    @property
    def log_names(self) -> list[str]:
        """The processes that have a log, by name."""
        return sorted(path.stem for directory in (self.owner, self.logs) for path in directory.glob("*.log"))

    # --- the client ---

    @property
    def client(self) -> Path:
        return self.root / "client"

    @property
    def client_policy(self) -> Path:
        return self.client / "policy.yaml"

    @property
    def client_trust_root(self) -> Path:
        return self.client / "platform-root.pem"

    @property
    def client_roots(self) -> Path:
        """What a client checks a server's certificate by, where the owner made that."""
        return self.client / "server-ca.pem"

    @property
    def client_certificate(self) -> Path:
        return self.client / "client.pem"

    @property
    def client_key(self) -> Path:
        return self.client / "client-key.pem"

    # --- the supervisor ---

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    def make(self) -> Layout:
        """Make the directories that are missing, all of them mode 0700; the root is claimed already.

        :raises InputError: one cannot be made. :raises MachineError: the disk is full or read-only.
        """
        for directory in (self.owner, self.platform, self.nginx, self.logs, self.temporary, self.client):
            make_directory(directory)
            require_own(directory, directory.lstat())
        return self
