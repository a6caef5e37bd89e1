"""From a deployment to the text of its manifest, and what should be known about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sealserve.deploy.clouds import load_profile
from sealserve.deploy.deployment import Deployment
from sealserve.deploy.image_section import parse_size
from sealserve.deploy.images.layout import ImageLayout
from sealserve.deploy.images.lint import lint, parse_manifest
from sealserve.deploy.images.manifest import render_manifest
from sealserve.deploy.images.programs import brokers_of
from sealserve.deploy.images.reference_values import lockout_reasons
from sealserve.deploy.images.sizing import EnclavePlan, model_bytes, plan_enclave
from sealserve.deploy.images.trusted_files import find_trusted_files
from sealserve.errors import InputError


def plan_for(deployment: Deployment, *, model_size: int | None = None, epc: str | None = None) -> EnclavePlan:
    """The enclave's sizes.

    :param model_size: bytes of the model; those of what lies at ``model.path`` if not given.
    :param epc: protected memory of the machine, such as ``64G``.
    :raises InputError: there is no model, or it is too large; ``epc`` is no size.
    :raises ConfigurationError: a size that the deployment gives cannot be.
    """
    try:
        available = None if epc is None else parse_size(epc)
    except ValueError:
        raise InputError(f"{epc!r} is no size", hint="Write it as 512M or 64G.") from None
    size = model_bytes(deployment.model.path) if model_size is None else model_size
    return plan_enclave(deployment, model_size=size, epc=available)


def render(
    deployment: Deployment,
    *,
    root: Path | None = None,
    model_size: int | None = None,
    epc: str | None = None,
    layout: ImageLayout | None = None,
    policy: Path | None = None,
) -> tuple[str, tuple[str, ...]]:
    """The manifest and warnings about it.

    :param root: the image's file system, to trust only what is loaded of it; whole directories if not given.
    :param policy: an appraisal policy, to warn if it would refuse every replica.
    :raises SealserveError: as :func:`plan_for`, :func:`~sealserve.deploy.images.manifest.render_manifest` and
        :func:`~sealserve.deploy.images.trusted_files.find_trusted_files`.
    """
    layout = layout or ImageLayout()
    plan = plan_for(deployment, model_size=model_size, epc=epc)
    trusted = None
    if root is not None:
        trusted = find_trusted_files(
            root,
            layout,
            tensorflow_serving=deployment.model.engine == "tensorflow-serving",
            batching=deployment.model.batching is not None,
        )
    text = render_manifest(deployment, plan, layout=layout, trusted_files=trusted)
    return text, (
        *plan.warnings,
        *(_too_small_machines(deployment, plan) if epc is None else ()),
        *_unreachable_brokers(deployment),
        *_weaknesses(text),
        *policy_warnings(deployment, policy),
    )


def _too_small_machines(deployment: Deployment, plan: EnclavePlan) -> Iterator[str]:
    """Which sizes of the deployment's cloud have less protected memory than the enclave."""
    if deployment.cloud is None:
        return
    profile = load_profile(deployment.cloud)
    sizes = {one.name: one.epc_gib for one in profile.instances if one.epc_gib is not None}
    small = [f"{name} ({gib} GiB)" for name, gib in sizes.items() if gib << 30 < plan.size]
    if small and len(small) == len(sizes):
        yield (
            f"the enclave of {plan.size_text} is larger than the protected memory (EPC) of every machine of "
            f"{profile.title}: {', '.join(small)}. What does not fit is swapped, encrypted, and slow: serve a smaller "
            "model, or set image.enclave_size."
        )
    elif small:
        yield (
            f"the enclave of {plan.size_text} is larger than the protected memory (EPC) of {', '.join(small)}: take a "
            f"larger machine of {profile.title}"
        )


def _unreachable_brokers(deployment: Deployment) -> Iterator[str]:
    for address in brokers_of(deployment):
        if address.host in {"localhost", "::1"} or address.host.startswith("127."):
            yield (
                f"replicas will look for the key broker at {address}, which is their own container: name the address "
                "at which they reach it under image.brokers"
            )


def _weaknesses(text: str) -> list[str]:
    """What lint finds. Of what stands in the text above there is nothing; of files found in an image there may be."""
    found = lint(parse_manifest(text.encode(), name="the manifest"))
    return [f"{finding.what}. {finding.rule.mend}" for finding in found if finding.rule.severity != "note"]


def policy_warnings(deployment: Deployment, policy: Path | None) -> tuple[str, ...]:
    """A warning if the policy would refuse every replica of the image that is about to be built.

    :raises ConfigurationError: the policy is not valid. :raises InputError: it cannot be read.
    """
    if policy is None:
        return ()
    image = deployment.image
    reasons = lockout_reasons(policy, isv_prod_id=image.isv_prod_id, isv_svn=image.isv_svn)
    if not reasons:
        return ()
    return (f"{policy} would refuse every replica of this image: {'; '.join(reasons)}.",)
