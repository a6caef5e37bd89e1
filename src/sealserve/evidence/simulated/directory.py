"""A simulated platform in a directory.

=========================  ====  ====================================================================
``root.pem``               0644  the root, which a policy names as ``trust_root``
``collateral.json``        0644  what a policy names as ``collateral``
``platform.json``          0644  the parameters of the platform
``README.txt``             0644  what this is
``authority/*.pem``        0644  the certificates of the authority
``authority/*.key``        0600  its private keys
``machine/pck-chain.pem``  0644  the machine's certificate chain
``machine/*.key``          0600  its private keys
=========================  ====  ====================================================================
"""

from __future__ import annotations

import errno
import json
import logging
import secrets
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sealserve.errors import InputError
from sealserve.evidence.simulated.authority import SimulatedAuthority
from sealserve.evidence.simulated.certificates import key_pem, pem
from sealserve.evidence.simulated.machine import SimulatedMachine
from sealserve.evidence.simulated.platform import SimulatedPlatform
from sealserve.evidence.simulated.profile import COLLATERAL_VALIDITY, PlatformProfile
from sealserve.files import (
    PRIVATE,
    explain_os_error,
    make_directory,
    read_file,
    read_secret_file,
    sync_directory,
    write_atomically,
)
from sealserve.logs import event, get_logger

ROOT = "root.pem"
COLLATERAL = "collateral.json"
REFRESH_BEFORE = timedelta(days=10)
"""Collateral that expires sooner than this is re-issued by :func:`ensure_simulated_platform`."""

_PROFILE = "platform.json"
_README = """\
SIMULATED PLATFORM, NO PROTECTION

The keys in this directory stand in for an SGX processor and for Intel's certification service. Whoever reads them can
claim to be any enclave. A simulated platform shows how attestation works; it keeps nothing secret from anybody.
"""

_log = get_logger(__name__)


def create_simulated_platform(
    directory: Path, *, now: datetime | None = None, profile: PlatformProfile | None = None
) -> SimulatedPlatform:
    """Make a simulated platform in ``directory``, which must be missing or empty. It appears whole or not at all.

    :param now: the time of issue, the present if not given. :param profile: what the platform is like.
    :raises InputError: the directory holds something, or cannot be written. :raises MachineError: the disk is full.
    """
    platform = SimulatedPlatform.generate(profile, now=now)
    make_directory(directory.parent)
    beside = directory.with_name(f".{directory.name}.{secrets.token_hex(6)}.partial")
    try:
        _write(platform, beside, now=now)
        beside.rename(directory)
        sync_directory(directory.parent)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise InputError(
                f"{directory} exists and is not empty", hint="Choose another directory for the simulated platform."
            ) from error
        raise explain_os_error(error, directory, "write") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    event(_log, logging.WARNING, "simulated-platform-created", directory=directory, protection="none")
    return platform


def ensure_simulated_platform(directory: Path, *, now: datetime | None = None) -> SimulatedPlatform:
    """The simulated platform in ``directory``: made if there is none, its collateral re-issued if it expires soon.

    Several processes may call this at the same time.

    :raises InputError: the directory holds something else, or a platform that is damaged.
    """
    if not (directory / ROOT).exists():
        try:
            return create_simulated_platform(directory, now=now)
        except InputError:
            if not (directory / ROOT).exists():  # Otherwise another process was quicker.
                raise
    platform = load_simulated_platform(directory)
    if _expires(directory) - (now or datetime.now(UTC)) < REFRESH_BEFORE:
        refresh_collateral(directory, now=now)
    return platform


def refresh_collateral(
    directory: Path, *, now: datetime | None = None, validity: timedelta = COLLATERAL_VALIDITY
) -> Path:
    """Re-issue TCB info, QE identity and revocation lists.

    :returns: the path of the new collateral. :raises InputError: there is no (whole) platform in the directory.
    """
    platform = load_simulated_platform(directory)
    path = directory / COLLATERAL
    write_atomically(path, platform.collateral_json(now=now, validity=validity))
    event(_log, logging.INFO, "simulated-collateral-issued", path=path)
    return path


def load_simulated_platform(directory: Path) -> SimulatedPlatform:
    """Read a platform back, with the authority's keys.

    :raises InputError: something is missing or damaged. :raises KeyFileError: a private key is readable by others.
    """
    try:
        profile = PlatformProfile.from_dict(json.loads(read_file(directory / _PROFILE)))
        authority = SimulatedAuthority(
            root_key=_load_key(directory / "authority" / "root.key"),
            root=x509.load_pem_x509_certificate(read_file(directory / ROOT)),
            platform_ca_key=_load_key(directory / "authority" / "platform-ca.key"),
            platform_ca=x509.load_pem_x509_certificate(read_file(directory / "authority" / "platform-ca.pem")),
            tcb_signing_key=_load_key(directory / "authority" / "tcb-signing.key"),
            tcb_signing=x509.load_pem_x509_certificate(read_file(directory / "authority" / "tcb-signing.pem")),
        )
    except (ValueError, TypeError) as error:
        raise _damaged(directory) from error
    return SimulatedPlatform(profile=profile, authority=authority, machine=load_simulated_machine(directory))


def load_simulated_machine(directory: Path) -> SimulatedMachine:
    """Read the machine alone, which is all that a process needs in order to be quoted.

    :raises InputError: something is missing or damaged. :raises KeyFileError: a private key is readable by others.
    """
    machine = directory / "machine"
    try:
        found = SimulatedMachine(
            pck_key=_load_key(machine / "pck.key"),
            attestation_key=_load_key(machine / "attestation.key"),
            chain_pem=read_file(machine / "pck-chain.pem"),
        )
        certified = x509.load_pem_x509_certificate(found.chain_pem).public_key()
    except (ValueError, TypeError) as error:
        raise _damaged(directory) from error
    if certified != found.pck_key.public_key():
        raise _damaged(directory)
    return found


def _write(platform: SimulatedPlatform, directory: Path, *, now: datetime | None) -> None:
    make_directory(directory, mode=0o755)
    for part in ("authority", "machine"):
        make_directory(directory / part, mode=0o755)
    authority, machine = platform.authority, platform.machine
    private = {
        "authority/root.key": authority.root_key,
        "authority/platform-ca.key": authority.platform_ca_key,
        "authority/tcb-signing.key": authority.tcb_signing_key,
        "machine/pck.key": machine.pck_key,
        "machine/attestation.key": machine.attestation_key,
    }
    public = {
        "authority/platform-ca.pem": pem(authority.platform_ca),
        "authority/tcb-signing.pem": pem(authority.tcb_signing),
        "machine/pck-chain.pem": machine.chain_pem.decode(),
        _PROFILE: json.dumps(platform.profile.as_dict(), indent=1),
        "README.txt": _README,
        COLLATERAL: platform.collateral_json(now=now),
        ROOT: platform.root_pem,
    }
    for file, key in private.items():
        write_atomically(directory / file, key_pem(key), mode=PRIVATE)
    for file, text in public.items():
        write_atomically(directory / file, text)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    with read_secret_file(path) as secret:
        key = load_pem_private_key(secret.reveal(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} holds another kind of key")
    return key


def _expires(directory: Path) -> datetime:
    """When the first part of the collateral that :func:`refresh_collateral` re-issues expires."""
    try:
        collateral = json.loads(read_file(directory / COLLATERAL))
        return datetime.fromisoformat(json.loads(collateral["tcb_info"])["nextUpdate"])
    except (InputError, ValueError, KeyError, TypeError):
        return datetime.min.replace(tzinfo=UTC)  # Missing or damaged: re-issue it.


def _damaged(directory: Path) -> InputError:
    return InputError(
        f"the simulated platform in {directory} is damaged",
        hint="Remove the directory; a new platform is made when needed, and policies must name its new root.",
    )
