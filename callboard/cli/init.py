"""What process 1 of a container has to do: the kernel hands it orphans, and spares it the default action of signals.

So the command itself goes on in a child, and process 1 hands signals on to it and takes in whatever ends.
"""

import os
import signal
from typing import Final

HANDED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
KILLED: Final = 128  # and the signal's number: an exit code as shells give it


def go_on_in_child() -> None:
    """In process 1: return in a child of it, and end as that child does. Elsewhere: return."""
    if os.getpid() != 1:
        return
    heard = {*HANDED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)  # what comes from now on waits until it is heard
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        told = signal.sigwaitinfo(heard)
        if told.si_signo == signal.SIGCHLD:
            code = _take_in(child)
            if code is not None:
                os._exit(code)
        elif told.si_code <= 0:  # a process sent it; what a terminal sends, it sends to the child too
            os.kill(child, told.si_signo)


def _take_in(child: int) -> int | None:
    """Take in all that has ended; the child's exit code, if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else KILLED - code
