"""The local services as the processes of one user share them.

    lock      held (flock, exclusive) around every start and stop, so that there is one of each at a time
    lease     held (flock, shared) by every process that uses the servers. Whoever leaves tries to hold it exclusively:
              where that works it was the last one, and stops the servers. The kernel frees the lease of a process that
              was killed, so none is ever left behind.
    pinned    exists while the servers are to go on running without users (`callboard services up`)

After kill -9 of all its users the servers run on. The next user finds that they answer, adopts them, and stops them
at its own end.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple

from msgspec import Struct

from callboard.services.account import Account, account_for, check_reach, private_folder
from callboard.services.postgres import Postgres
from callboard.services.valkey import Valkey

SOCKETS: Final = Path("/tmp")  # noqa: S108 - short, since the path of a socket is at most 104 bytes; checked below


class Urls(NamedTuple):
    """Where the servers are, as asyncpg and redis-py take it."""

    database_url: str
    redis_url: str


class Status(Struct, frozen=True, kw_only=True):
    """The local services as they are now."""

    home: str
    database_url: str
    redis_url: str
    postgres: bool  # whether it answers
    valkey: bool
    pinned: bool
    in_use: bool  # by any process


class LocalServices:
    """PostgreSQL and Valkey with their data in the folder `home`, shared by all processes that name the same one.

    A context manager: entering starts the servers or joins them, leaving stops them if nobody else uses them. All
    methods block (about 1 s for the very first start, 0.1 s for a later one, some ms for joining): call them where a
    process begins and ends. With `durable=False` PostgreSQL doesn't wait for the disk, and a power failure may cost all
    data: for tests. It counts for whoever starts the servers.
    """

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        self.home = home.expanduser().resolve()
        self.durable = durable
        self._lease: IO[bytes] | None = None

    def start(self) -> Urls:
        """Start the servers, or join them; they answer on return, and go on running until `stop`.

        Again after that, it starts whichever has died since. Raises ServicesMissing where there are no binaries,
        ServicesFailed, BadFolder.
        """
        account = account_for(self.home)
        private_folder(self.home, account)
        check_reach(self.home, account)
        with self._locked(), ExitStack() as undo:
            private_folder(self._sockets(account), account)
            undo.callback(self._leave, account)
            self._join()
            postgres, valkey = self._servers(account)
            valkey.start()
            postgres.start()
            undo.pop_all()
        return Urls(postgres.url, valkey.url)

    def stop(self, *, force: bool = False) -> bool:
        """Leave the servers, and stop them if nobody else uses them and they aren't pinned; true if they are stopped.

        `force` stops them in any case. Raises ServicesFailed if a server doesn't end.
        """
        if not self.home.exists():
            return True
        with self._locked():
            return self._leave(account_for(self.home), force=force)

    def pin(self) -> None:
        """Have the servers go on running when nobody uses them, until `unpin`."""
        with self._locked():
            self._pinned.touch()

    def unpin(self) -> None:
        """Undo `pin`; servers that nobody uses run on until the next `stop`."""
        self._pinned.unlink(missing_ok=True)

    def status(self) -> Status:
        """The servers as they are now; starts nothing."""
        account = account_for(self.home)
        postgres, valkey = self._servers(account)
        in_use = False
        if self.home.exists():
            with self._locked():
                in_use = not self._is_last()
        return Status(
            home=str(self.home),
            database_url=postgres.url,
            redis_url=valkey.url,
            postgres=postgres.answers(),
            valkey=valkey.answers(),
            pinned=self._pinned.exists(),
            in_use=in_use,
        )

    def __enter__(self) -> Urls:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _pinned(self) -> Path:
        return self.home / "pinned"

    def _sockets(self, account: Account) -> Path:
        """The folder of the sockets: the same for all processes with this home and user."""
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()
        return SOCKETS / f"callboard{account.uid}-{digest[:10]}"

    def _servers(self, account: Account) -> tuple[Postgres, Valkey]:
        place = (self.home, self._sockets(account), account)
        return Postgres(*place, durable=self.durable), Valkey(*place, durable=self.durable)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The only process that starts, stops, joins or leaves. Others do so within their timeouts, so it waits."""
        with (self.home / "lock").open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def _join(self) -> None:
        if self._lease is None:
            self._lease = (self.home / "lease").open("ab")
            fcntl.flock(self._lease, fcntl.LOCK_SH)

    def _leave(self, account: Account, *, force: bool = False) -> bool:
        """Give the lease back, and stop the servers if that is right; under the lock."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None
        if force:
            self.unpin()
        elif self._pinned.exists() or not self._is_last():
            return False
        for server in self._servers(account):
            server.stop()
        with suppress(OSError):  # gone already, or somebody put something into it
            self._sockets(account).rmdir()
        return True

    def _is_last(self) -> bool:
        """Whether no process has the lease; under the lock."""
        with (self.home / "lease").open("ab") as lease:
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True
