"""The controlling terminal: who has it, and how it passes to a child (tty_ioctl(4), credentials(7)).

``fcntl`` and ``termios`` are loaded only where there is a terminal.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal


def open_controlling() -> int:
    """A descriptor of our controlling terminal, whatever stdio is; -1 when we have none."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return -1


def leads_session() -> bool:
    return os.getsid(0) == os.getpid()


def foreground(tty: int) -> int:
    """The terminal's foreground group; 0 when it has none or is gone."""
    try:
        return os.tcgetpgrp(tty)
    except OSError:
        return 0


def give_up(tty: int) -> list[int] | None:
    """As session leader, let go of the terminal, so that a child's session can take it.

    The kernel then sends HUP and CONT to the foreground group, which is usually ours, in our own name. Both
    must be blocked on entry and are taken out of the queue here. Two of a kind are one in that queue, under the
    first sender's name, so one that was there before is somebody else's: those are returned, for the caller's
    loop. None: the terminal could not be given up.
    """
    import fcntl
    import termios

    try:
        fcntl.ioctl(tty, termios.TIOCNOTTY)
    except OSError:
        return None
    owed = []
    for number in (_signal.SIGHUP, _signal.SIGCONT):
        if number not in _signal.sigpending():
            continue
        if not hasattr(_signal, "sigwaitinfo"):
            _signal.sigwait({number})  # macOS names no sender
        elif _signal.sigwaitinfo({number}).si_pid != os.getpid():
            owed.append(int(number))
    return owed


def take_terminal(tty: int) -> None:
    """Make it the controlling terminal of the session we lead; one that belongs to another session stays there."""
    import fcntl
    import termios

    try:
        fcntl.ioctl(tty, termios.TIOCSCTTY, 0)
    except OSError:
        pass


def take_foreground(tty: int, group: int = 0) -> None:
    """Make ``group`` (0: ours) the foreground group. SIGTTOU must be blocked: we may be in the background."""
    try:
        os.tcsetpgrp(tty, group or os.getpgrp())
    except OSError:
        pass
