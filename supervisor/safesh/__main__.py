"""``python -m safesh`` and what ``bin/safe.sh`` executes."""

import _signal  # type: ignore[import-not-found]  # the C half of signal, which costs 7 ms
import sys

if not __package__:  # run as a file by bin/safe.sh: our source root is one level up
    sys.path[0] = __file__.rpartition("/safesh/")[0]

# Nothing has begun: Ctrl-C among the first imports ends us as it ends any program, without a traceback of Python's.
_raises = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
if _raises:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from safesh.cli.main import entry  # noqa: E402

if _raises:
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)

entry()
