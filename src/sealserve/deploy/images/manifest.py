"""The Gramine manifest of a replica, as TOML with comments that say why each line is as it is.

Hardened by default. Whatever steers the replica is fixed in the manifest, so that it is part of MRENCLAVE; what is not
measured is either encrypted and authenticated by Gramine (encrypted mounts), or checked by the replica itself (the
directory of the sealed model, for our own server). Written for Gramine 1.9
(https://gramine.readthedocs.io/en/stable/manifest-syntax.html). ``gramine-sgx-sign`` takes the text as it is.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sealserve.deploy.deployment import Deployment
from sealserve.deploy.image_section import format_size
from sealserve.deploy.images.layout import ImageLayout
from sealserve.deploy.images.programs import Program, program_of
from sealserve.deploy.images.sizing import EnclavePlan

_WIDTH = 110


def render_manifest(
    deployment: Deployment,
    plan: EnclavePlan,
    *,
    layout: ImageLayout | None = None,
    trusted_files: Sequence[str] | None = None,
) -> str:
    """The manifest of this deployment's replicas.

    :param plan: the enclave's sizes, of :func:`~sealserve.deploy.images.sizing.plan_enclave`.
    :param layout: where things lie in the image.
    :param trusted_files: URIs such as ``file:/usr/bin/python3.12``, directories with a ``/`` at the end, as
        :func:`~sealserve.deploy.images.trusted_files.find_trusted_files` gives them. Whole directories if not given.
    :raises ConfigurationError: the deployment is for no enclave, or asks for what the engine cannot do in one.
    """
    layout = layout or ImageLayout()
    program = program_of(deployment, plan, layout)
    trusted = program.trusted_files if trusted_files is None else trusted_files
    sections = (
        _header(deployment, program),
        _start(program),
        _environment(program.environment),
        _files(program, layout),
        _trusted(trusted),
        _allowed(program),
        _system(program, plan),
        _enclave(deployment, plan),
    )
    return "\n".join("\n".join(section) + "\n" for section in sections)


def _header(deployment: Deployment, program: Program) -> Iterator[str]:
    yield from _comment(
        f"Gramine manifest of the replicas of {deployment.name}: {program.title}. Rendered from deployment.yaml. "
        "Every setting is part of MRENCLAVE: change that file and render it again."
    )


def _start(program: Program) -> Iterator[str]:
    yield from _comment(
        "What runs, with which arguments. They are fixed here, so that they are measured and the host cannot "
        "choose them: no loader.insecure__use_cmdline_argv."
    )
    yield f"libos.entrypoint = {_text(program.entrypoint)}"
    yield "loader.argv = ["
    yield from (f"  {_text(argument)}," for argument in program.arguments)
    yield "]"
    yield ""
    yield from _comment("More than errors in the log would tell the host what the replica is doing.")
    yield 'loader.log_level = "error"'


def _environment(environment: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    yield from _comment(
        "The whole environment: nothing of the host's is passed on, because libraries take orders from it."
    )
    for name, (value, reason) in environment.items():
        yield from _comment(reason)
        yield f"loader.env.{name} = {_text(value)}"


def _files(program: Program, layout: ImageLayout) -> Iterator[str]:
    yield from _comment(
        "What the enclave sees of the file system. The root is empty and in its own memory; so is /tmp, where "
        "plaintext may lie."
    )
    yield 'fs.root = { type = "tmpfs" }'
    yield ""
    yield "fs.mounts = ["
    yield from _comment("Gramine's C library comes first, in the place of the distribution's.", indent=2)
    yield f'  {{ path = "/lib", uri = {_uri(layout.runtime)} }},'
    yield '  { type = "tmpfs", path = "/tmp" },'
    yield from (f"  {{ path = {_text(path)}, uri = {_uri(path)} }}," for path in program.mounts)
    if program.encrypted:
        yield from _comment(
            "Ciphertext on the host. Gramine decrypts it inside, under the key that the broker gives, and refuses "
            "what was changed or moved to another path.",
            indent=2,
        )
    for path in program.encrypted:
        key = _text(program.key_name)
        yield f'  {{ type = "encrypted", path = {_text(path)}, uri = {_uri(path)}, key_name = {key} }},'
    yield "]"


def _trusted(uris: Iterable[str]) -> Iterator[str]:
    yield from _comment(
        "Code and data that must be exactly what was there when the image was signed. gramine-sgx-sign puts the "
        "SHA-256 of every file in, and thereby into MRENCLAVE."
    )
    yield "sgx.trusted_files = ["
    yield from (f"  {_text(uri)}," for uri in uris)
    yield "]"


def _allowed(program: Program) -> Iterator[str]:
    yield from _comment(
        "What the host may choose freely. "
        + (" ".join(program.allowed.values()) or "Nothing: every file is trusted or encrypted.")
    )
    yield f"sgx.allowed_files = [{', '.join(_text(uri) for uri in program.allowed)}]"
    yield 'sgx.file_check_policy = "strict"'


def _system(program: Program, plan: EnclavePlan) -> Iterator[str]:
    yield from _comment(
        "Names of hosts are looked up as the host does it (/etc/resolv.conf). An answer that is wrong leads to a "
        "server that cannot prove what it is."
    )
    yield "sys.enable_extra_runtime_domain_names_conf = true"
    yield from _comment(
        "SIGTERM lets requests in flight finish. A host that sends it can do no more than switching the machine off."
    )
    yield "sys.enable_sigterm_injection = true"
    yield from _comment(program.subprocess_reason)
    yield "sys.disallow_subprocesses = true"
    yield from _comment("Stack of each thread; numeric libraries overrun Gramine's 256K.")
    yield f"sys.stack.size = {_text(format_size(plan.stack))}"
    yield from _comment("Open files: connections are most of them.")
    yield "sys.fds.limit = 8192"


def _enclave(deployment: Deployment, plan: EnclavePlan) -> Iterator[str]:
    yield from _comment(
        "No debug enclave, whose memory the host could read, and quotes (DCAP) that prove it: the key broker and "
        "clients rely on both."
    )
    yield "sgx.debug = false"
    yield 'sgx.remote_attestation = "dcap"'
    yield from _comment(f"{plan.size_reason}.")
    yield f"sgx.enclave_size = {_text(plan.size_text)}"
    yield from _comment(f"{plan.threads_reason}. One more at a time, and the replica fails.")
    if deployment.model.engine != "tensorflow-serving":
        yield from _comment(
            f"The key broker's grant says how many compute (its argument `threads`); more than {plan.computing} are "
            "refused."
        )
    yield f"sgx.max_threads = {plan.max_threads}"
    yield from _comment(
        "No memory that comes later (EDMM): it needs SGX2 and Linux 6.0, makes the first use of every page slower, and "
        "all that a replica needs is known now. Without it the enclave takes all of its memory at start."
    )
    yield "sgx.edmm_enable = false"
    yield from _comment(
        "Product and security version, which policies name: image.isv_prod_id and image.isv_svn of deployment.yaml."
    )
    yield f"sgx.isvprodid = {deployment.image.isv_prod_id}"
    yield f"sgx.isvsvn = {deployment.image.isv_svn}"


def _comment(text: str, *, indent: int = 0) -> Iterator[str]:
    pad = " " * indent
    for line in textwrap.wrap(text, _WIDTH - indent, break_on_hyphens=False):
        yield f"{pad}# {line}"


def _text(value: str) -> str:
    """A TOML basic string; JSON's escapes are valid in it."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def _uri(path: str) -> str:
    return _text(f"file:{path}")
