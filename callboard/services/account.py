"""Which user the servers run as, and the folders that only this user may enter.

PostgreSQL refuses to run as root. So root starts the servers in a user namespace of their own, where root is shown as
user 65534 ("nobody"): nothing changes outside of it, and all files stay root's. Where such namespaces are not allowed
(as in many containers), root starts them as the real user 65534, who then owns the data.
"""

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from callboard.protocols.errors import BadFolder, ServicesMissing

ROOT: Final = 0
NOBODY: Final = 65534
IN_NAMESPACE: Final = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--")
AS_NOBODY: Final = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


class Account(NamedTuple):
    """The user that the servers run as: what to put before their commands, and who owns their files."""

    prefix: tuple[str, ...]
    uid: int

    def can(self, *command: str) -> bool:
        """Whether a command succeeds for the account."""
        run = [*self.prefix, *command]
        if shutil.which(run[0]) is None:
            return False
        return subprocess.run(run, capture_output=True, check=False).returncode == 0


def account_for(home: Path) -> Account:
    """The account for servers whose data is in `home`; raises ServicesMissing."""
    if os.geteuid() != ROOT:
        return Account((), os.geteuid())
    belongs_to_nobody = home.exists() and home.stat().st_uid == NOBODY
    in_namespace, as_nobody = Account(IN_NAMESPACE, ROOT), Account(AS_NOBODY, NOBODY)
    for account in [as_nobody] if belongs_to_nobody else [in_namespace, as_nobody]:
        if account.can("true"):
            return account
    reason = "PostgreSQL refuses to run as root, and neither `unshare --user` nor `setpriv` works here"
    raise ServicesMissing("PostgreSQL", reason, "nothing, but run Callboard as an ordinary user")


def private_folder(path: Path, account: Account) -> None:
    """Make sure that a folder exists, belongs to the account and is closed to others; raises BadFolder.

    A folder that is there already is checked and not changed: somebody else may have put it there on purpose.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if found.st_uid == os.geteuid() != account.uid and not any(path.iterdir()):
            os.chown(path, account.uid, account.uid)
            found = path.lstat()
    except OSError as error:
        raise BadFolder(str(path), error.strerror or str(error)) from None
    if not stat.S_ISDIR(found.st_mode):
        raise BadFolder(str(path), "it is a symbolic link")
    if found.st_uid != account.uid:
        raise BadFolder(str(path), f"it belongs to user {found.st_uid}, and has to belong to user {account.uid}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadFolder(str(path), "others may write into it; chmod 700 helps")


def check_reach(path: Path, account: Account) -> None:
    """Make sure that the account can enter a folder through all folders above it; raises BadFolder."""
    if account.uid != os.geteuid() and not account.can("test", "-x", str(path)):
        reason = f"the servers run as user {account.uid} and can't reach it; choose another by CALLBOARD_HOME"
        raise BadFolder(str(path), reason)
