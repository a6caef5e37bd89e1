"""Why an image cannot be had, in one line: kubelet hands on what the container runtime and each layer below it said."""

from __future__ import annotations

import re

from sealserve.deploy.first_cluster import NO_REGISTRY

_PULLING = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull")
_IMAGE = re.compile(r'image "([^"]+)"')
_LONGEST = 300  # characters


def image_trouble(why: str, message: str, image: str) -> str:
    """The innermost cause, the same for a pull that failed and for the time until the next one.

    :param why: the reason for which a container waits. :param message: what kubelet says of it; may be empty.
    :param image: the container's. The message may name another, which is mounted as a volume.
    """
    named = _IMAGE.search(message)
    image = image if named is None else named[1]
    if why in _PULLING and image.startswith(f"{NO_REGISTRY}/"):
        return f"this node does not have the image {image}: load the archive (docs/kubernetes-quickstart.md)"
    # Back-off pulling image "x": ErrImagePull: failed to resolve reference "x": x: not found
    _, failed, cause = f"{why}: {message}".partition("ErrImagePull: ")
    first, second = ("ErrImagePull", cause) if failed else (why, message)
    words = " ".join(second.rpartition('": ')[2].split())
    return f"{first}: {words}"[:_LONGEST] if words else first
