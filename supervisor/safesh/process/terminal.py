"""Pseudo-terminals for commands that want one (pty(7))."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import tty

ROWS, COLUMNS = 24, 80


def open_pair(*, raw: bool) -> tuple[int, int]:
    """(master, slave), 24 by 80, neither inherited nor our controlling terminal.

    raw: every byte passes as it is (cfmakeraw(3)). Otherwise the terminal is a usual one without echo: it edits lines
    of at most 4095 bytes, turns ``\\n`` into ``\\r\\n`` on output and Ctrl-C into SIGINT.
    """
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        if raw:
            tty.setraw(slave, termios.TCSANOW)
        else:
            modes = termios.tcgetattr(slave)
            modes[3] &= ~(termios.ECHO | termios.ECHONL)
            termios.tcsetattr(slave, termios.TCSANOW, modes)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    return master, slave
