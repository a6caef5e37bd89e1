"""How large an enclave must be: its memory and its threads, which SGX fixes before it starts.

The figures are estimates on the safe side, because one page or one thread too few ends the replica, and their reasons
go into the manifest as comments. They never depend on the machine that renders: the same deployment gives the same
measurement everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sealserve.deploy.deployment import Deployment
from sealserve.deploy.image_section import GREATEST_ENCLAVE_SIZE, format_size, parse_size
from sealserve.errors import ConfigurationError, InputError

_MIB = 1 << 20
_GIB = 1 << 30
ASSUMED_THREADS = 16
"""Threads that compute, where the deployment leaves them to the machine."""


@dataclass(frozen=True)
class _Needs:
    """What an engine needs.

    :param base: bytes of the program and its libraries, whole, since inside an enclave nothing is shared.
    :param copies: of the model's bytes. :param copies_reason: what they are.
    :param requests: bytes of all requests and answers that are held at once.
    :param other_threads: those that do not compute, and Gramine's own. :param threads_reason: what they are.
    :param stack: bytes of each thread's stack.
    """

    base: int
    copies: int
    copies_reason: str
    requests: int
    other_threads: int
    threads_reason: str
    stack: int


_WORKING_MEMORY = 24 * _MIB  # of each thread that computes
_THREAD = _MIB // 4  # what Gramine loads for each, whether it is ever started or not

# The bounds of requests and threads are those of serving/limits.py and serving/rest/limits.py.
_OUR_COPIES = "the files unsealed, the weights read, the engine's own copy, and the version that answers meanwhile"
_OUR_THREADS = (
    "156 at most for requests, 80 of gRPC, of loading and of watching (libraries start as many on large machines), and "
    "4 of Gramine"
)
_NEEDS = {
    "openvino": _Needs(512 * _MIB, 5, _OUR_COPIES, _GIB, 240, _OUR_THREADS, 2 * _MIB),
    "tensorflow": _Needs(2 * _GIB, 5, _OUR_COPIES, _GIB, 240, _OUR_THREADS, 2 * _MIB),
    "tensorflow-serving": _Needs(
        1536 * _MIB,
        4,
        "the files decrypted, the graph, the weights, and the version that answers meanwhile",
        _GIB // 2,
        128,
        "32 at most for requests, 92 of gRPC, of loading and of watching, and 4 of Gramine",
        4 * _MIB,
    ),
}


@dataclass(frozen=True)
class EnclavePlan:
    """The sizes of an enclave.

    :param size: bytes of address space, a power of two. :param needed: bytes that the replica is estimated to use.
    :param max_threads: threads that can be inside at once. :param computing: how many of them compute.
    :param stack: bytes of each thread's stack, a power of two.
    :param size_reason: of the size, in words. :param threads_reason: of the threads.
    :param warnings: what should be known before it is built.
    """

    size: int
    needed: int
    max_threads: int
    computing: int
    stack: int
    size_reason: str
    threads_reason: str
    warnings: tuple[str, ...] = ()

    @property
    def size_text(self) -> str:
        """The size as Gramine writes it."""
        return format_size(self.size)


def model_bytes(path: Path) -> int:
    """Bytes of the largest version of a model: a directory that has one in each numbered directory.

    :raises ModelError: there is no model.
    """
    # Needs protobuf, which is not everywhere where a manifest is made of a size that is given.
    from sealserve.models.saved_model import find_versions

    versions = find_versions(path).values()
    return max(sum(file.stat().st_size for file in version.rglob("*") if file.is_file()) for version in versions)


def plan_enclave(deployment: Deployment, *, model_size: int, epc: int | None = None) -> EnclavePlan:
    """Choose the sizes of a replica's enclave.

    :param model_size: bytes of one version of the model, see :func:`model_bytes`.
    :param epc: bytes of protected memory (EPC) that the machine has, if it is known.
    :raises ConfigurationError: a size that the deployment gives cannot be.
    :raises InputError: the model is too large for any enclave, or for the machine's EPC.
    """
    needs = _NEEDS[deployment.model.engine]
    warnings: list[str] = []
    threads = deployment.replicas.threads
    computing = ASSUMED_THREADS if threads == "auto" else threads
    max_threads, threads_reason = _threads(deployment, needs, computing)
    needed = (
        needs.base
        + needs.copies * model_size
        + needs.requests
        + computing * _WORKING_MEMORY
        + max_threads * (needs.stack + _THREAD)
    )
    size, size_reason = _size(deployment, needs, model_size=model_size, needed=needed, warnings=warnings)
    if epc is not None:
        _check_epc(deployment, size=size, needed=needed, epc=epc, warnings=warnings)
    return EnclavePlan(size, needed, max_threads, computing, needs.stack, size_reason, threads_reason, tuple(warnings))


def _threads(deployment: Deployment, needs: _Needs, computing: int) -> tuple[int, str]:
    given = deployment.image.max_threads
    assumed = ", which replicas.threads: auto means in an image" if deployment.replicas.threads == "auto" else ""
    if given == "auto":
        return computing + needs.other_threads, f"{computing} that compute{assumed}; {needs.threads_reason}"
    least = computing + needs.other_threads // 2
    if given < least:
        raise ConfigurationError(
            f"image.max_threads: {given} threads are too few for {computing} that compute{assumed}",
            hint=f"Set it to {least} or more, leave it at auto, or lower replicas.threads.",
        )
    return given, f"set by image.max_threads; {computing} compute{assumed}"


def _size(
    deployment: Deployment, needs: _Needs, *, model_size: int, needed: int, warnings: list[str]
) -> tuple[int, str]:
    reason = (
        f"{_shown(needs.base)} for {deployment.model.engine} and its libraries, {needs.copies} times the model's "
        f"{_shown(model_size)} ({needs.copies_reason}), {_shown(needs.requests)} for requests and answers, and the "
        f"rest for threads: {_shown(needed)}"
    )
    given = deployment.image.enclave_size
    if given == "auto":
        size = 1 << (needed - 1).bit_length()
        if size > GREATEST_ENCLAVE_SIZE:
            raise InputError(
                f"the model has {_shown(model_size)}, and no enclave is large enough to serve it",
                hint="Serve a smaller model: a pruned, quantised or half-precision one.",
            )
        return size, f"{reason}, and the next power of two"
    size = parse_size(given)
    least = needs.base + 2 * model_size
    if size < least:
        raise ConfigurationError(
            f"image.enclave_size: {given} cannot hold {deployment.model.engine} and a model of {_shown(model_size)}",
            hint=f"About {_shown(needed)} are needed: set it to {format_size(1 << (needed - 1).bit_length())}, or "
            "leave it at auto.",
        )
    if size < needed:
        warnings.append(
            f"image.enclave_size: {given} may be too little: about {_shown(needed)} are needed. A replica that runs "
            "out of memory ends."
        )
    return size, f"set by image.enclave_size; estimated need: {reason}"


def _check_epc(deployment: Deployment, *, size: int, needed: int, epc: int, warnings: list[str]) -> None:
    if needed > epc:
        raise InputError(
            f"a replica needs about {_shown(needed)}, and the machine has {_shown(epc)} of protected memory (EPC)",
            hint="Use a machine with more EPC, a smaller model, or fewer replicas.threads. What does not fit is "
            "encrypted and swapped, page by page, and serving becomes many times slower.",
        )
    if size > epc:
        warnings.append(
            f"the enclave of {format_size(size)} is larger than the {_shown(epc)} of protected memory (EPC), though "
            f"the replica needs only about {_shown(needed)}: it starts slowly, because all of it is loaded. A smaller "
            "image.enclave_size, or a machine with more EPC, avoids that."
        )
    elif (count := deployment.replicas.count) * needed > epc:
        warnings.append(
            f"{count} replicas need about {_shown(count * needed)}, more than the {_shown(epc)} of protected memory "
            f"(EPC) of one machine: let at most {max(1, epc // size)} run on each."
        )


def _shown(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{-(-size // _MIB)} MiB"
