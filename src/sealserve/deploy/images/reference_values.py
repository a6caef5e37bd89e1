"""Reference values of an image, written into an appraisal policy; and whether a policy would accept an image at all.

The file is edited as text, so that comments and everything else in it stay. What comes out is read back before it takes
the place of the old file: it must be the old policy with one entry more.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal

import yaml

from sealserve.configuration import parse_yaml
from sealserve.deploy.images.sigstruct import Sigstruct
from sealserve.errors import ConfigurationError, InputError, TrustError
from sealserve.evidence.policy import EnclaveReference, PolicyDocument
from sealserve.files import read_file, write_atomically
from sealserve.logs import printable

Accept = Literal["build", "signer"]

_NEW_POLICY = """\
# Which enclaves get the model's key. docs/appraisal-policy.md explains every setting.
tee: sgx
# Intel's own service has the collateral of all machines; the cloud's, or a PCCS, does as well.
collateral: {service: intel}
enclaves:
"""


class DebugEnclaveError(TrustError):
    """An enclave whose memory the host may read was to be accepted."""


def add_reference(path: Path, sigstruct: Sigstruct, *, accept: Accept, source: str) -> str:
    """Have a policy accept an image, and say what was done. A policy that is not there is made.

    :param accept: ``build``: exactly this build, by MRENCLAVE; ``signer``: this signer's product, at this security
        version or later.
    :param source: where the values come from, for a comment.
    :raises DebugEnclaveError: the enclave is a debug enclave, or may be started as one.
    :raises ConfigurationError: the policy is not valid, or not for SGX. :raises InputError: it cannot be edited.
    """
    if sigstruct.debug_allowed:
        raise DebugEnclaveError(
            f"{source} is a debug enclave, or may be started as one: the host reads its memory, and no policy accepts "
            "that",
            hint="Set sgx.debug = false in the manifest, and sign it again.",
        )
    reference = _reference(sigstruct, accept)
    if not path.exists():
        text = _NEW_POLICY + _entry(reference, source, indent=2)
        parse_yaml(text, PolicyDocument, path=path)
        write_atomically(path, text)
        return f"{path} is new, and accepts {_named(accept)}"
    try:
        text = read_file(path).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text", hint="Name an appraisal policy.") from None
    policy = _load(text, path)
    if accepting := _accepting(policy, sigstruct, accept):
        return f"{path} accepts it already, by {accepting}"
    edited = _with_entry(text, reference, source, path)
    if _load(edited, path) != policy.model_copy(update={"enclaves": (*policy.enclaves, reference)}):
        raise _uneditable(path, reference, source)
    path = path.resolve()  # a link stays one
    write_atomically(path, edited, mode=stat.S_IMODE(path.stat().st_mode))
    others = len(policy.enclaves)
    return (
        f"{path} accepts {_named(accept)} now, beside what it accepted before ({others} "
        f"{'entry' if others == 1 else 'entries'}): take out what must get no keys any more"
    )


def lockout_reasons(path: Path, *, isv_prod_id: int, isv_svn: int, mrsigner: bytes | None = None) -> list[str]:
    """Why a policy would refuse every replica of an image that is yet to be built; empty if it would not.

    MRENCLAVE is not known before the build, so that a policy that accepts single builds alone always refuses it, until
    ``sealserve image measure --policy`` adds it.

    :param mrsigner: of the key that will sign it, 32 bytes, if it is known.
    :raises ConfigurationError: the policy is not valid. :raises InputError: it cannot be read.
    """
    policy = parse_yaml(read_file(path), PolicyDocument, path=path)
    if policy.tee != "sgx":
        return [f"it is for tee: {policy.tee}, and the image is for sgx"]
    reasons = [_refusal(entry, isv_prod_id, isv_svn, mrsigner) for entry in policy.enclaves]
    return [] if None in reasons else list(dict.fromkeys(reason for reason in reasons if reason))


def _refusal(entry: EnclaveReference, isv_prod_id: int, isv_svn: int, mrsigner: bytes | None) -> str | None:
    if entry.mrenclave is not None:
        return (
            f"it accepts the build with MRENCLAVE {entry.mrenclave.hex()[:16]}…, and every build has its own: add the "
            "new one with `sealserve image measure --policy` when it is signed"
        )
    if mrsigner is not None and entry.mrsigner != mrsigner:
        return f"it accepts enclaves of another signer, MRSIGNER {(entry.mrsigner or b'').hex()[:16]}…"
    if entry.isv_prod_id != isv_prod_id:
        return f"it accepts product {entry.isv_prod_id}, and image.isv_prod_id is {isv_prod_id}"
    if entry.minimum_isv_svn is not None and isv_svn < entry.minimum_isv_svn:
        return f"it accepts security version {entry.minimum_isv_svn} or later, and image.isv_svn is {isv_svn}"
    return None


def _load(text: str, path: Path) -> PolicyDocument:
    policy = parse_yaml(text, PolicyDocument, path=path)
    if policy.tee != "sgx":
        raise ConfigurationError(
            f"{path}: tee: is {policy.tee}, and the image is for sgx",
            hint="Name another policy; one that is not there is made.",
        )
    return policy


def _reference(sigstruct: Sigstruct, accept: Accept) -> EnclaveReference:
    if accept == "build":
        return EnclaveReference.model_validate({"mrenclave": sigstruct.mrenclave})
    signer = {"mrsigner": sigstruct.mrsigner, "isv_prod_id": sigstruct.isv_prod_id}
    return EnclaveReference.model_validate({**signer, "minimum_isv_svn": sigstruct.isv_svn})


def _accepting(policy: PolicyDocument, sigstruct: Sigstruct, accept: Accept) -> str | None:
    """By what a policy accepts an image already; an entry for its signer does not make one for the build needless."""
    for entry in policy.enclaves:
        if entry == _reference(sigstruct, accept):
            return "MRENCLAVE" if accept == "build" else "signer, product and security version"
    return None


def _named(accept: Accept) -> str:
    return "this very build" if accept == "build" else "this signer's product from this security version on"


def _entry(reference: EnclaveReference, source: str, *, indent: int) -> str:
    pad = " " * indent
    lines = [f"{pad}# {printable(source)}"]  # with a file name that somebody else chose
    lead = f"{pad}- "
    # In quotes: digits alone would be a number in YAML.
    for name, value in reference.model_dump(exclude_none=True).items():
        lines.append(f'{lead}{name}: "{value}"' if isinstance(value, str) else f"{lead}{name}: {value}")
        lead = f"{pad}  "
    return "\n".join(lines) + "\n"


def _with_entry(text: str, reference: EnclaveReference, source: str, path: Path) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    node = next((value for key, value in pairs if key.value == "enclaves"), None)
    if not isinstance(node, yaml.SequenceNode) or node.flow_style or not node.value:
        raise _uneditable(path, reference, source)
    lines = text.splitlines(keepends=True)
    # The end of a block stands behind the blank lines and comments that follow it: those belong to what comes next.
    end = min(node.value[-1].end_mark.line, len(lines))
    while end and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    end = max(end, node.value[-1].start_mark.line + 1)
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    return "".join([*lines[:end], _entry(reference, source, indent=node.start_mark.column), *lines[end:]])


def _uneditable(path: Path, reference: EnclaveReference, source: str) -> InputError:
    return InputError(
        f"{path} is written in a way that cannot be added to",
        hint=f"Add this under enclaves: yourself:\n{_entry(reference, source, indent=2)}",
    )
