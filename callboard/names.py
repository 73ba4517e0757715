"""Names of processes: what a process is called, and that no other one on its machine is called the same.

A name is held from the moment at which a process claims it, so that of two that start at once one has it; and it is
free when that process has ended, however it ended. Whoever can't see the other's lock (another user, another temporary
folder) still sees its heartbeats.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from callboard.protocols.errors import NameTaken


@contextmanager
def held(namespace: str, process: str, roles: Collection[str]) -> Iterator[None]:
    """Hold the name of a process for these roles, on the store of this namespace. Raises NameTaken."""
    with ExitStack() as locks:
        for role in sorted(roles):
            locks.enter_context(_held(namespace, process, role))
        yield


@contextmanager
def _held(namespace: str, process: str, role: str) -> Iterator[None]:
    name = process.rpartition("@")[0]
    mark = hashlib.blake2b(f"{role}/{name}".encode(), digest_size=8).hexdigest()
    path = Path(tempfile.gettempdir()) / f"callboard-{namespace}-{mark}.lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:  # another user's: their heartbeats tell of them
        yield
        return
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a child that is forked doesn't hold it on
        except (BlockingIOError, PermissionError):
            raise NameTaken(name, role, os.read(file, 1000).decode(errors="replace") or "it starts now") from None
        os.ftruncate(file, 0)
        os.pwrite(file, process.encode(), 0)
        yield
    finally:
        os.close(file)
