"""Two tiny programs that keep a run from leaving processes behind when its supervisor is SIGKILLed.

`guard.py watch` reads `+GROUP` and `-GROUP` lines from stdin; when stdin ends, because the supervisor is gone, it
kills every group it still knows: grandchildren too, as long as they stay in their group.

`guard.py start PARENT COMMAND ...` asks the kernel to be killed with PARENT, then becomes COMMAND. It stands for the
time before the guard knows the group, and for a guard that was killed as well. SIGKILL in both cases: the controller
is gone with its supervisor, so there is nothing left to end in order.

Run as a file under `python -I -S`, which takes about 15 ms: a `preexec_fn` would run Python between fork and exec of a
process with threads, which may deadlock and warns from Python 3.12 on.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # the guard outlives what ends the rest


def watch() -> None:
    """Knows groups until stdin ends, then kills them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def start(parent: int, command: list[str]) -> None:
    """Becomes `command`, killed by the kernel as soon as the thread of `parent` that started it ends."""
    import ctypes  # here: the guard does not need it

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)  # kept through exec
    if os.getppid() != parent:  # it ended before prctl
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", file=sys.stderr)
        os._exit(127)  # as a shell does


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        watch()
    else:
        start(int(sys.argv[2]), sys.argv[3:])
