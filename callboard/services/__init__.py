"""Callboard's own PostgreSQL and Valkey, for where no server is named by URL: no Docker, no root, no open port.

local     who uses them: `LocalServices`, the lock around every start and stop, the leases of the users
server    one server process: started detached, known to be alive by a lock that it holds, ended by a signal
postgres, valkey      the two servers: which binaries, which options, whether they answer
account   which user they run as, and the private folders
"""

from callboard.services.local import LocalServices, Status, Urls

__all__ = ["LocalServices", "Status", "Urls"]
