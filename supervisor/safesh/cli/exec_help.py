"""The manual page that ``safe.sh exec --help`` prints; docs/exec.md tells more."""

TEXT = """\
NAME
    safe.sh exec - run one command under an init: signals handed on, zombies reaped

USAGE
    safe.sh exec [options] [--] CMD ARGS...

    No lock, no safe.toml, one process. For containers (as pid 1) and scripts.
    Options end at the first word that is none; `--` ends them for certain.

SIGNALS
    --scope group|child      who gets a signal: CMD's whole process group, or CMD alone
                             (default: group; with --session keep: child)
    --rewrite SIG:SIG        send the second where the first is received; 0 drops it;
                             names or numbers, repeatable
    --session new|pgrp|keep  CMD leads a session of its own (default), or a process group
                             of its own in the foreground of our terminal, or stays in ours
    --pdeathsig SIG          when our parent dies, CMD gets SIG; when we are killed, too

PROCESSES
    --no-subreaper           do not adopt the orphans below us (pid 1 always does)
    --warn-reap              name each adopted zombie that is reaped, on stderr
    --on-exit term           when CMD ends: TERM to what is left of its group (default)
    --on-exit leave          ... touch nothing
    --on-exit end            ... end every process below us and say what it took

TIME, as timeout(1) does it
    --timeout T              after T send TERM; T: a number with s, m, h or d; 0: no limit
    --timeout-signal SIG     send SIG instead
    --kill-after T           KILL what still runs T after it was asked to end
    --preserve-status        exit with CMD's status even when the time was over

OTHER
    --ok-exit N              exit 0 where N would be the status; repeatable
    -v, --verbose            name each signal sent, on stderr
    --help, --version

EXIT STATUS
    CMD's own, or 128 + the number of the signal that ended it; and
    124   the time was over (137: CMD had to be killed)
    125   something is wrong on our side, and an option of TIME is in use
    126   CMD cannot be executed
    127   CMD was not found
    2     wrong usage;  71  no process, memory or descriptor left

EXAMPLES
    ENTRYPOINT ["safe.sh", "exec", "--"]                 pid 1 of a container
    safe.sh exec --rewrite TERM:QUIT -- nginx            stop it gracefully
    safe.sh exec --timeout 1h --kill-after 30s -- backup
    safe.sh exec --on-exit end -- ./run-tests.sh         nothing survives it
    safe.sh exec --session pgrp -- bash                  job control from a shell
"""
