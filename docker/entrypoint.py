"""The start of both images: ``python -m`` of what stands behind the image's name, as a user who can keep the results.

A folder of this machine that is not there when a container starts is made by the engine, as root. So what is to be
written to is looked at first: a run that ends with "permission denied" ends before minutes of loading, and says what
to do. It needs nothing but Python, and imports nothing of the user's.
"""

from __future__ import annotations

import os
import pwd
import sys
import tempfile
from pathlib import Path

OWNER = "RUN_AS_OWNER_OF"  # set by compose.yaml to a mounted file of the checkout
LACKING = 4  # exit code: the machine lacks something
OPEN = 0o002  # all may write
FIX = """on your machine:
    rmdir runs            # if the engine has made it: it is empty and root's
    mkdir -p runs
and, behind "docker run": --user "$(id -u):$(id -g)" (with a rootless engine: --user 0:0)
A folder that is only read from may be mounted with ":ro"."""


def main(arguments: list[str]) -> None:
    """Become this process: ``python -m`` and the arguments. Signals reach it, as no shell and no parent stay."""
    folders = [Path("runs").absolute(), Path(os.environ.get("CLIP_FEWSHOT_CACHE", "/cache"))]
    owner = os.environ.get(OWNER)
    if owner and os.geteuid() == 0:
        become(os.stat(owner), folders)
    for folder in folders:
        if not is_writable(folder):
            refuse(folder)
    os.environ.update(account())
    os.execv(sys.executable, [sys.executable, "-m", *arguments])


def become(owner: os.stat_result, folders: list[Path]) -> None:
    """Give up root for the owner of the checkout, and hand over what the engine has just made for this container.

    Compose cannot know who calls it: ``UID`` is a variable of bash that no child of bash sees. The checkout's owner is
    known, and is who would run the commands without a container.
    """
    for folder in filter(is_new, folders):
        os.chown(folder, owner.st_uid, owner.st_gid)
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)


def is_new(folder: Path) -> bool:
    """Whether it is as the engine makes one: empty, and root alone may write to it. An open volume is left as it is."""
    if not folder.is_dir():
        return False
    status = folder.stat()
    return status.st_uid == 0 and not status.st_mode & OPEN and not os.listdir(folder)


def is_writable(folder: Path) -> bool:
    """Whether files can be made in it. One that is not there, or is mounted read-only on purpose, is not judged."""
    if not os.path.isdir(folder) or os.statvfs(folder).f_flag & os.ST_RDONLY:  # Path.is_dir raises below closed ones
        return True
    return os.access(folder, os.W_OK | os.X_OK)


def refuse(folder: Path) -> None:
    """End with what was expected, what came, and what to do."""
    status = folder.stat()
    expected = f"a folder that user {os.geteuid()} may write to"
    got = f"one of user {status.st_uid} with mode {status.st_mode & 0o777:o}"
    print(f"error: {folder}: expected {expected}, got {got}; {FIX}", file=sys.stderr)
    sys.exit(LACKING)


def account() -> dict[str, str]:
    """Variables that give a user without an account a name and a home, where there is Java to ask for them.

    Spark ends without one: "basedir must be absolute: ?/.ivy2". Libnss-wrapper reads accounts from a file of ours; an
    /etc/passwd that every user may write to would do as well, and would let each of them become root.
    """
    library = next(Path("/usr/lib").glob("*/libnss_wrapper.so"), None)
    if library is None or any(user.pw_uid == os.getuid() for user in pwd.getpwall()):
        return {}
    home = os.environ.get("HOME", "/tmp")
    with tempfile.NamedTemporaryFile("w", suffix=".passwd", delete=False) as file:
        file.write(Path("/etc/passwd").read_text() + f"clip:x:{os.getuid()}:{os.getgid()}::{home}:/bin/sh\n")
    return {"LD_PRELOAD": str(library), "NSS_WRAPPER_PASSWD": file.name, "NSS_WRAPPER_GROUP": "/etc/group"}


if __name__ == "__main__":
    main(sys.argv[1:])
