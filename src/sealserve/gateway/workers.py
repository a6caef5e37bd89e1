"""Who nginx's workers run as when root starts it: nobody, where the machine allows that.

The master stays root's: it reads the configuration and opens the port and the logs, before it starts the workers. They
need no file of their own, so that they work although `nobody` may not enter the directory.
"""

from __future__ import annotations

import grp
import os
import pwd
import subprocess

_NOBODY = "nobody"


def worker_user() -> str | None:
    """What nginx's directive ``user`` has to say; None for other users than root, whose workers it does not concern.

    ``root`` where root may not become `nobody`: there is no such user, or the container forbids it. nginx would not
    start there.
    """
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(_NOBODY)
        group = grp.getgrgid(user.pw_gid)
        subprocess.run(
            ["/bin/true"], user=user.pw_uid, group=user.pw_gid, extra_groups=[], check=True, timeout=20, cwd="/"
        )
    except (KeyError, OSError, subprocess.SubprocessError):
        return "root"
    return f"{user.pw_name} {group.gr_name}"
