"""Whether the key broker's policy lets replicas in, asked before any of them runs.

This judges nothing for anybody's safety: the broker does, when a replica comes. It spares a rollout that ends with a
refusal. What runs is known from what was applied: each apply leaves the measurement at the Deployment, from where
Kubernetes copies it to the ReplicaSet of each rollout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

from sealserve.broker.administration import UnknownNameError
from sealserve.broker.audit_reading import AuditFilter, Page
from sealserve.broker.store import StoredPolicy
from sealserve.broker.store.documents import GrantDocument, StoredGrant
from sealserve.configuration import load_yaml, parse_yaml
from sealserve.deploy.images.measuring import measure
from sealserve.enclave.measured import measured_settings
from sealserve.errors import SealserveError
from sealserve.evidence import EnclaveReference, PolicyDocument, measure_simulated_enclave
from sealserve.kubernetes.grant_differences import grant_differences
from sealserve.kubernetes.live.api import Cluster
from sealserve.kubernetes.live.errors import ForbiddenError, NotPermittedError
from sealserve.kubernetes.live.handover import with_annotations
from sealserve.kubernetes.live.kinds import REPLICA_SET
from sealserve.kubernetes.plan import Plan
from sealserve.kubernetes.yaml_text import Object

MEASUREMENT = "sealserve.dev/measurement"
"""Annotation of each Deployment of replicas, and thereby of its ReplicaSets: what its pods measure to, JSON. It is no
part of the pod template, so that it rolls nothing."""


_DECISION = re.compile(r"\bdecision ([0-9a-f]{16})\b")


@dataclass(frozen=True)
class Measurement:
    """What replicas measure to: ``mrenclave`` and ``mrsigner`` in hexadecimal."""

    mrenclave: str
    mrsigner: str
    isv_prod_id: int = 0
    isv_svn: int = 0

    def to_annotation(self) -> str:
        """As JSON."""
        return json.dumps(vars(self), separators=(",", ":"))

    @classmethod
    def from_annotation(cls, text: str | None) -> Self | None:
        """None if it is none: somebody else may have written it."""
        try:
            value = json.loads(text or "")
            return cls(
                str(value["mrenclave"]), str(value["mrsigner"]), int(value["isv_prod_id"]), int(value["isv_svn"])
            )
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def accepted_by(self, entry: EnclaveReference) -> bool:
        """Whether an entry of a policy accepts it."""
        if entry.mrenclave is not None and entry.mrenclave.hex() != self.mrenclave:
            return False
        if entry.mrsigner is None:
            return entry.mrenclave is not None
        version = -1 if entry.minimum_isv_svn is None else entry.minimum_isv_svn
        same = entry.mrsigner.hex() == self.mrsigner and entry.isv_prod_id == self.isv_prod_id
        return same and self.isv_svn >= version


@dataclass(frozen=True)
class Verdict:
    """What is known of the broker's answer.

    :ivar answer: a refusal is none: it is an error. :ivar reasons: what is not known, and why.
    :ivar warnings: what should be known besides.
    """

    answer: Literal["permitted", "unknown"]
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Administration(Protocol):
    """What is asked of a broker: its store's administration, or that over HTTPS."""

    def grant(self, deployment: str, /) -> StoredGrant: ...
    def policy(self, name: str, /) -> StoredPolicy: ...


class Audit(Protocol):
    """A broker's audit log, here or over HTTPS."""

    def latest(self, wanted: AuditFilter, *, limit: int) -> Page: ...


@dataclass(frozen=True)
class GrantedPolicy:
    """A deployment's grant, and the policy that says who gets it. :ivar name: the policy's."""

    name: str
    grant: GrantDocument
    policy: PolicyDocument


def granted_policy(broker: Administration, deployment: str) -> GrantedPolicy:
    """What the broker goes by when replicas of the deployment ask it.

    :raises NotPermittedError: there is no grant for it. :raises SealserveError: the broker cannot be asked.
    """
    try:
        grant = broker.grant(deployment).document
    except UnknownNameError as error:
        raise NotPermittedError(
            f"the key broker has no grant for {deployment}: every replica would be refused",
            hint="`sealserve prepare` makes it, or `sealserve broker grant put`.",
        ) from error
    stored = broker.policy(grant.policy)
    return GrantedPolicy(stored.name, grant, parse_yaml(stored.text, PolicyDocument, path=Path(f"/{stored.name}.yaml")))


Measurements = Mapping[str, Measurement | str]
"""Name of a Deployment of replicas → what its pods measure to, or why that is not known."""


def measure_replicas(plan: Plan, signature: Path, canary_signature: Path | None = None) -> Measurements:
    """What the replicas will measure to, and those of a canary.

    With ``tee: simulated`` it is what this sealserve measures to: an image with another one in it measures otherwise.

    :param signature: with ``tee: sgx``, where ``sealserve image sign`` left the image's signature, and
    :param canary_signature: that of the canary's.
    :raises NotPermittedError: it is a debug enclave, which no policy accepts. :raises SealserveError: it is broken.
    """
    found: dict[str, Measurement | str] = {plan.stable.deployment: _measure(plan, signature)}
    if plan.canary is not None:
        unknown = "no --canary-signature was given, which `sealserve image sign` writes"
        if plan.deployment.tee == "sgx" and canary_signature is None:
            found[plan.canary.deployment] = unknown
        else:
            found[plan.canary.deployment] = _measure(plan, canary_signature or signature)
    return found


def _measure(plan: Plan, signature: Path) -> Measurement | str:
    if plan.deployment.tee == "simulated":
        authority = (plan.broker_ca or "").encode()
        enclave = measure_simulated_enclave(measured_settings(deployment=plan.name, broker_ca=authority))
        return Measurement(enclave.mrenclave.hex(), enclave.mrsigner.hex(), enclave.isv_prod_id, enclave.isv_svn)
    if not signature.exists():
        return f"there is no {signature}, which `sealserve image sign` writes and --signature names"
    signed = measure(signature).sigstruct
    if signed.debug_allowed:
        raise NotPermittedError(
            f"{signature} is of a debug enclave, or of one that may be started as one: no policy accepts it",
            hint="Set sgx.debug = false in the manifest, and sign the image again.",
        )
    return Measurement(signed.mrenclave.hex(), signed.mrsigner.hex(), signed.isv_prod_id, signed.isv_svn)


def judge(
    cluster: Cluster,
    plan: Plan,
    new: Measurements,
    granted: GrantedPolicy | str,
    *,
    permitted_by: str,
    allow_gap: bool = False,
) -> Verdict:
    """Whether the broker's policy lets in what is to be applied, and still lets in what runs.

    :param new: what is to be applied, and :param granted: what the broker goes by; or why they are not known.
    :param permitted_by: commands that would permit the replicas, for the hint of a refusal.
    :param allow_gap: whether replicas that run may be refused from now on.
    :raises NotPermittedError: it does not. :raises SealserveError: the cluster cannot be asked.
    """
    unknown = [
        f"what {name} measures to is not known: {found}" for name, found in new.items() if isinstance(found, str)
    ]
    if isinstance(granted, str):
        return Verdict("unknown", (*unknown, f"its policy is not known: {granted}"))
    running, all_known = _running(cluster, plan)
    warnings = check_policy(granted, plan, new, running, permitted_by=permitted_by, allow_gap=allow_gap)
    if not all_known:
        warnings.append(
            "of some replicas that serve the measurement is not known: whether the policy still accepts them was not "
            "looked at"
        )
    return Verdict("unknown" if unknown else "permitted", tuple(unknown), tuple(warnings))


def _running(cluster: Cluster, plan: Plan) -> tuple[set[Measurement], bool]:
    """What the replicas that serve measure to, and whether that is all: others may have made some."""
    try:
        sets = cluster.list(REPLICA_SET, namespace=plan.namespace, labels=plan.every_replica)
    except ForbiddenError:
        return set(), False  # applying tells of it, with everything else that is not permitted
    found = [
        Measurement.from_annotation(each["metadata"].get("annotations", {}).get(MEASUREMENT))
        for each in sets
        if each.get("status", {}).get("readyReplicas", 0)
    ]
    return {each for each in found if each is not None}, None not in found


def check_policy(
    granted: GrantedPolicy,
    plan: Plan,
    new: Measurements,
    running: Iterable[Measurement],
    *,
    permitted_by: str,
    allow_gap: bool = False,
) -> list[str]:
    """Judge by a policy what is to run, and what runs. Parameters and errors as above. :returns: warnings."""
    document, grant = granted.policy, granted.grant
    if document.tee != plan.deployment.tee:
        raise NotPermittedError(
            f"the key broker's policy {granted.name} is for tee: {document.tee}, and these replicas are "
            f"{plan.deployment.tee}",
            hint=f"Give the grant of {plan.name} another policy: `sealserve broker grant put`.",
        )
    for name, each in new.items():
        if not isinstance(each, str) and not _accepts(document, each):
            raise NotPermittedError(
                f"the key broker's policy {granted.name} does not accept MRENCLAVE {each.mrenclave} (signer "
                f"{each.mrsigner[:16]}…, product {each.isv_prod_id}, security version {each.isv_svn}): every pod of "
                f"{name} would be refused, so that nothing was applied",
                hint=permitted_by,
            )
    warnings = [*_about_model(plan, grant), *grant_differences(plan.deployment, grant)]
    old = [each for each in running if not _accepts(document, each)]
    if not old:
        return warnings
    gap = (
        f"the policy {granted.name} does not accept the replicas that run now (MRENCLAVE "
        f"{', '.join(each.mrenclave[:16] + '…' for each in old)}) any more: they lose their grant within "
        f"{grant.refresh_seconds} seconds, whether or not new ones are ready"
    )
    if not allow_gap:
        raise NotPermittedError(
            gap,
            hint="Let the policy accept both until the rollout is over, or say --allow-gap.",
        )
    return [*warnings, gap]


def recorded_reason(audit: Audit, deployment: str, said: str) -> str | None:
    """Why the broker refused a replica, in the words of its audit log: replicas are told the decision's number alone.

    :param deployment: its name. What the log has of others is none of this one's matters, whatever number is said.
    :param said: what the replica said of it.
    """
    number = _DECISION.search(said)
    if number is None:
        return None
    records = audit.latest(AuditFilter(decision=number[1], deployment=deployment), limit=1).records
    return str(records[-1].get("detail") or records[-1].get("reason")) if records else None


def annotated(objects: Sequence[Object], measurements: Measurements) -> list[Object]:
    """The objects, of which each Deployment of replicas says what they measure to, if that is known."""
    notes = {
        name: {MEASUREMENT: found.to_annotation()}
        for name, found in measurements.items()
        if isinstance(found, Measurement)
    }
    return [
        with_annotations(thing, notes.get(thing["metadata"]["name"], {})) if thing["kind"] == "Deployment" else thing
        for thing in objects
    ]


def _accepts(document: PolicyDocument, measurement: Measurement) -> bool:
    return any(measurement.accepted_by(entry) for entry in document.enclaves)


def _about_model(plan: Plan, grant: GrantDocument) -> list[str]:
    """Whether the grant names the model that ``sealserve prepare`` sealed here last, as the clients' policy has it."""
    try:
        policy = load_yaml(plan.deployment.state / "client" / "policy.yaml", PolicyDocument)
    except SealserveError:
        return []
    granted = {grant.model.digest} | (set() if grant.previous is None else {grant.previous.model.digest})
    sealed = {digest.hex() for digest in policy.models}
    if not sealed or sealed & granted:
        return []
    text = (
        f"the grant of {plan.name} is for the model {grant.model.digest[:16]}…, and what was sealed here last is "
        f"{min(sealed)[:16]}…: replicas load only what the grant names (`sealserve broker grant switch`)"
    )
    return [text]
