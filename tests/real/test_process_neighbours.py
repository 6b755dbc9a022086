"""The process API in a program that does other things with processes: forks, handlers, Popen objects, sudden ends.

Each runs in an interpreter of its own (``helpers.callers``), for it changes what belongs to a whole process.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from helpers import procs
from helpers.callers import SUPERVISOR, caller, finished, program
from helpers.campaign import in_full, rounds, thinned
from helpers.commands import gone
from helpers.procs import Spawn, spawn, wait_until

pytestmark = pytest.mark.timeout(90)
BACKENDS = pytest.mark.parametrize("backend", ["", "posix"])


def backend_of(name: str) -> dict[str, str]:
    return {"SAFESH_BACKEND": name} if name else {}


def done(child: Spawn) -> None:
    assert finished(child).endswith("ok\n"), child.err


# fork ---------------------------------------------------------------------------------------------------------


@BACKENDS
def test_a_forked_child_uses_the_api_itself_and_neither_ends_nor_reaps_what_is_the_parents(backend: str) -> None:
    code = """
    cat = run("cat", BACKGROUND)
    kept = run("cat", BACKGROUND, contain="keeper")
    short = run("sleep 0.3; exit 7", BACKGROUND, shell=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert get_active_processes() == {}
            assert run("echo x", shell=True).stdout == "x\\n"
            mine = run("cat", BACKGROUND)
            assert communicate_with_process(mine.pid, "y\\n") == "y\\n"
            assert run("exit 3", BACKGROUND, shell=True).wait(10).return_code == 3
            assert run("exit 4", shell=True, contain="keeper", timeout=20).return_code == 4
            end_all()
            assert mine.wait(10).done
            code = 0
        finally:
            import atexit
            atexit._run_exitfuncs()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert short.wait(10).return_code == 7
    assert communicate_with_process(cat.pid, "a\\n") == "a\\n"
    assert communicate_with_process(kept.pid, "b\\n") == "b\\n"
    say("ok")
    """
    with caller(code, extra_env=backend_of(backend)) as child:
        done(child)


def test_a_forked_child_that_lives_on_holds_no_pipe_of_the_parents() -> None:
    code = """
    cat, kept = run("cat", BACKGROUND), run("cat", BACKGROUND, contain="keeper")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    def link(fd):
        try:
            return os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:  # it is being closed this moment
            return ""
    def held():
        links = [link(fd) for fd in os.listdir(f"/proc/{pid}/fd") if int(fd) > 2]
        return [link for link in links if "pipe" in link or "pidfd" in link or "eventpoll" in link]
    until(lambda: len(held()) == 1, 5)
    write_to_process(cat.pid, "x\\n", close=True)
    write_to_process(kept.pid, "x\\n", close=True)
    assert cat.wait(5).stdout == kept.wait(5).stdout == "x\\n"
    os.close(writing)
    os.waitpid(pid, 0)
    say("ok")
    """
    with caller(code) as child:
        done(child)


def test_forks_in_one_thread_never_keep_a_command_of_another_thread_from_its_end() -> None:
    code = """
    children = []
    stop = threading.Event()
    def fork():
        while not stop.is_set() and len(children) < 150:
            pid = os.fork()
            if pid == 0:
                time.sleep(40)
                os._exit(0)
            children.append(pid)
            time.sleep(0.005)
    forking = threading.Thread(target=fork)
    forking.start()
    try:
        slow = []
        while forking.is_alive():
            began = time.monotonic()
            assert run("cat", input_data="x" * 10).stdout == "x" * 10
            assert run("cat", BACKGROUND, input_data="y").wait(10).stdout == "y"
            slow.append(time.monotonic() - began)
        assert max(slow) < 0.9, max(slow)   # a held pipe costs a second at the least
    finally:
        stop.set()
        forking.join()
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    say("ok", len(slow))
    """
    with caller(code) as child:
        assert re.search(r"ok \d+\n$", finished(child))


def test_a_fork_while_every_lock_is_busy_leaves_a_child_that_works() -> None:
    code = """
    # Modules are loaded first: a fork in the midst of an import in another thread is beyond any library.
    first = run("cat", BACKGROUND)
    assert communicate_with_process(first.pid, "x\\n") == "x\\n" and kill_process(first.pid, force=True).ok
    assert run("echo x", shell=True).success
    stop = threading.Event()
    def busy():
        while not stop.is_set():
            one = run("cat", BACKGROUND)
            communicate_with_process(one.pid, "x\\n")
            kill_process(one.pid, force=True)
            cleanup_finished_processes()
    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads: thread.start()
    try:
        for turn in range(int(sys.argv[1])):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                code = 1
                try:
                    assert run("echo x", shell=True).stdout == "x\\n"
                    one = run("cat", BACKGROUND)
                    assert communicate_with_process(one.pid, "x\\n") == "x\\n"
                    assert kill_process(one.pid, force=True).ok
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, turn
    finally:
        stop.set()
        for thread in threads: thread.join(20)
    say("ok")
    """
    with caller(code, str(rounds(8, 25))) as child:
        done(child)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_multiprocessing_may_use_it(method: str, tmp_path: Path) -> None:
    code = """
    import multiprocessing
    def work(number):
        blocking = execute_command(f"echo {number}; exit {number % 5}", shell=True)
        background = execute_command(f"echo {number}", BACKGROUND, shell=True).wait(20)
        return blocking.stdout, blocking.return_code, background.stdout
    if __name__ == "__main__":
        before = run("cat", BACKGROUND)
        assert run("true").success
        with multiprocessing.get_context(sys.argv[1]).Pool(3) as pool:
            found = pool.map(work, range(30))
            assert found == [(f"{n}\\n", n % 5, f"{n}\\n") for n in range(30)], found
            # It sees its end of file although the pool's workers live.
            assert write_to_process(before.pid, "x\\n", close=True) == 2
            assert before.wait(5).stdout == "x\\n"
        say("ok")
    """
    command = [sys.executable, "-W", "ignore", program(tmp_path, code), method]
    with spawn(*command, extra_env={"PYTHONPATH": SUPERVISOR}) as child:
        done(child)


# signals ------------------------------------------------------------------------------------------------------


def test_exit_codes_are_right_although_a_handler_of_the_callers_reaps_every_child() -> None:
    code = """
    foreign = []
    def reap(number, frame):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            foreign.append(pid)
    signal.signal(signal.SIGCHLD, reap)
    lost = 0
    for n in range(40):
        for mode in (BLOCKING, BACKGROUND):
            one = run(f"echo {n}; exit {n}", mode, shell=True, timeout=30).wait(20)
            assert one.done and one.stdout == f"{n}\\n", one
            if one.return_code is None:
                assert isinstance(one.error, StatusLost), one
                lost += 1
            else:
                assert one.return_code == n, one
    kept = run("exit 9", shell=True, contain="keeper", timeout=20)
    assert kept.return_code == 9, kept
    assert signal.getsignal(signal.SIGCHLD) is reap
    try:
        os.waitpid(-1, os.WNOHANG)
        raise SystemExit("a child is left")
    except ChildProcessError:
        pass
    say("lost", lost, "reaped by the handler", len(foreign))
    say("ok")
    """
    with caller(code) as child:
        out = finished(child)
    release = tuple(int(word) for word in re.findall(r"\d+", os.uname().release)[:2])
    match = re.search(r"lost (\d+) ", out)
    assert match is not None
    assert release < (6, 15) or match.group(1) == "0"


def test_an_ignored_sigchld_costs_the_status_at_most_and_hangs_nothing() -> None:
    code = """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for n in range(10):
        for mode in (BLOCKING, BACKGROUND):
            one = run(f"echo {n}; exit {n}", mode, shell=True, timeout=30).wait(20)
            assert one.done and one.stdout == f"{n}\\n", one
            assert one.return_code == n or isinstance(one.error, StatusLost), one
    late = run("sleep 60", BACKGROUND, timeout=0.3)
    assert late.wait(10).timed_out
    assert run("not-there").return_code == 127
    assert run("exit 9", shell=True, contain="keeper", timeout=20).return_code == 9
    assert run("echo x", pty=True, shell=True, timeout=20).stdout.strip() == "x"
    say("ok")
    """
    with caller(code) as child:
        done(child)


@BACKENDS
def test_nothing_of_the_callers_is_changed(backend: str) -> None:
    code = """
    import ctypes, resource
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    def state():
        subreaper = ctypes.c_int()
        ctypes.CDLL(None).prctl(37, ctypes.byref(subreaper), 0, 0, 0)
        status = open("/proc/self/status").read()
        return {
            "handlers": {n: signal.getsignal(n) for n in signal.valid_signals()},
            "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
            "kernel": [line for line in status.splitlines() if line.startswith(("SigIgn", "SigCgt", "SigBlk"))],
            "subreaper": subreaper.value,
            "environ": dict(os.environ),
            "cwd": os.getcwd(),
            "limits": [resource.getrlimit(n) for n in range(16)],
            "session": (os.getsid(0), os.getpgrp(), os.getpriority(os.PRIO_PROCESS, 0)),
            "umask": [line for line in status.splitlines() if line.startswith("Umask")],
        }
    before = state()
    for contain in ("session", "keeper"):
        for mode in (BLOCKING, BACKGROUND, INTERACTIVE, MONITORED):
            one = run("echo x; sleep 0.2", mode, shell=True, contain=contain, cwd="/", timeout=20,
                      limits={"memory": "1GB", "interval": 0.1} if mode is MONITORED else None)
            assert one.wait(20).success, one
    assert run("echo x", shell=True, pty=True, timeout=20).success
    assert run("sleep 60", timeout=0.2).timed_out
    after = state()
    assert before == after, [(key, before[key], after[key]) for key in before if before[key] != after[key]]
    say("ok")
    """
    with caller(code, extra_env=backend_of(backend)) as child:
        done(child)


# Popen objects ------------------------------------------------------------------------------------------------

BESIDE = """
results = []
def ours():
    for n in range(int(sys.argv[1])):
        results.append(run(f"exit {n % 5}", (BLOCKING, BACKGROUND)[n % 2], shell=True, timeout=30))
        if n % 40 == 0:
            assert run("sleep 30 & sleep 60", shell=True, timeout=0.2, stop=0.1).timed_out
            assert run("exit 6", shell=True, contain="keeper", timeout=20).return_code == 6
threads = [threading.Thread(target=ours) for _ in range(4)]
for thread in threads: thread.start()
codes = []
while any(thread.is_alive() for thread in threads):
    batch = [subprocess.Popen(["sh", "-c", "sleep 0.0%d; exit 7" % (n % 10)]) for n in range(10)]
    codes += [one.wait() for one in batch]
for thread in threads: thread.join()
assert codes and set(codes) == {7}, set(codes)
assert sorted({one.wait(20).return_code for one in results}) == [0, 1, 2, 3, 4]
late = subprocess.Popen(["sh", "-c", "exit 7"])
end_all()
assert late.wait() == 7
say("ok")
"""


@BACKENDS
def test_popen_objects_of_the_caller_get_their_own_exit_codes(backend: str) -> None:
    with caller(BESIDE, str(rounds(20, 60)), extra_env=backend_of(backend)) as child:
        done(child)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_caller_never_waits_for_just_any_child(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    strace = ("strace", "-f", "-qq", "-o", os.fspath(trace), "-e", "trace=wait4,waitid,execve,prctl,kill")
    with caller(BESIDE + "say(os.getpid())\n", "10", prefix=strace) as child:
        out = finished(child)
        me = int(out.split()[-1])
    lines = trace.read_text(errors="replace").splitlines()
    assert any(re.search(r"wait(4|id)\(", line) for line in lines), "strace saw nothing"
    # A keeper waits for any child, after its exec; a thread of ours never does. strace tells threads by their number.
    executed = {line.split()[0] for line in lines if "execve" in line and line.rstrip().endswith("= 0")}
    ours = [line for line in lines if line.split()[0] == str(me) or line.split()[0] not in executed]
    assert len(ours) > 20
    wild = [line for line in ours if re.search(r"wait4\((-1|0|-\d+),|waitid\((P_ALL|P_PGID)", line)]
    assert wild == []
    reapers = [line for line in ours if "PR_SET_CHILD_SUBREAPER" in line]
    assert reapers == []
    assert not [line for line in ours if re.search(r" kill\((-1|0|1), [^0]", line)]


# ends ---------------------------------------------------------------------------------------------------------

WAYS = {
    "falls off its end": ("", 0),
    "calls sys.exit": ("sys.exit(5)", 5),
    "raises": ("raise ValueError('the end')", 1),
}


@thinned()
@BACKENDS
@pytest.mark.parametrize("way", list(WAYS))
def test_an_interpreter_that_ends_takes_its_background_runs_along(way: str, backend: str) -> None:
    code = """
    tree = "trap '' TERM; setsid sleep 60 & sleep 60 & echo $$ $!; wait; sleep 60"
    pids = []
    for contain in ("session", "keeper"):
        one = run(tree, BACKGROUND, shell=True, contain=contain, stop=0.2)
        pids += read_from_process(one.pid, 10).split()
    threading.Thread(target=lambda: run("sleep 61", stop=0.1), daemon=True).start()
    until(lambda: len(get_active_processes()) == 3)
    pids += [str(pid) for pid in get_active_processes()]
    say("pids", *pids)
    """
    how, status = WAYS[way]
    with caller(textwrap.dedent(code) + how + "\n", extra_env=backend_of(backend)) as child:
        out = finished(child, status)
        pids = [int(word) for word in out.split()[1:]]
        assert len(pids) == 7
        gone(*pids, deadline=0.5)
        assert child.members() == []


@thinned()
@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("options", ["", "contain='keeper'", "pty=True", "limits={'memory': '1GB'}"])
def test_ctrl_c_ends_the_tree_of_a_blocking_command_and_is_raised_then(options: str, presses: int) -> None:
    code = f"""
    try:
        run("trap '' INT TERM; sleep 60 & setsid sleep 60 & sleep 60; sleep 60", shell=True, stop=0.5, {options})
    except KeyboardInterrupt:
        assert get_active_processes() == {{}}
        say("interrupted")
    """
    with caller(code) as child:
        wait_until(lambda: len([one for one in child.members() if "sleep 60" in one.command]) >= 4)
        for _ in range(presses):
            wait_until(lambda: child.alive())
            child.send(signal.SIGINT)
            wait_until(lambda: True, 0.1)
        if presses == 1:
            assert finished(child) == "interrupted\n"
        else:
            child.wait(30)
        assert child.members() == []


def test_ctrl_c_at_any_moment_leaves_nobody_behind() -> None:
    code = """
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    run("true"); run("true", BACKGROUND).wait(5)
    before = len(os.listdir("/proc/self/fd"))
    hit = 0
    turns = int(sys.argv[1])
    for turn in range(turns):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + 0.0045 * turn / turns)
            run("sleep 5", stop=0.1)
            raise SystemExit("not interrupted")
        except KeyboardInterrupt:
            hit += 1
    assert get_active_processes() == {}
    say("descriptors", len(os.listdir("/proc/self/fd")) - before, "children", len(children()))
    say("ok")
    """
    with caller(code, str(rounds(50, 150))) as child:
        out = finished(child)
        match = re.search(r"descriptors (-?\d+) children (\d+)", out)
        assert match is not None
        # subprocess itself is interrupted between fork and its first line now and then: that one is nobody's.
        assert int(match.group(2)) <= 2, out
        assert int(match.group(1)) <= 6, out


@BACKENDS
def test_a_caller_killed_with_sigkill_leaves_nothing_of_a_keepers_run(backend: str) -> None:
    code = """
    tree = "trap '' TERM; setsid sleep 60 & (setsid setsid sleep 60 &) ; sleep 60 & echo up; wait; sleep 60"
    one = run(tree, BACKGROUND, shell=True, contain="keeper", stop=0.2)
    assert read_from_process(one.pid, 10) == "up\\n"
    say("up")
    time.sleep(60)
    """
    # Its members carry the child's mark: Spawn knows them by that, and the keeper by being its descendant.
    with caller(code, extra_env=backend_of(backend)) as child:
        child.wait_line("up")
        wait_until(lambda: sum("sleep 60" in one.command for one in child.members()) >= 4)
        child.send(signal.SIGKILL)
        child.wait()
        wait_until(lambda: child.members() == [], 10, "nobody left")


def test_a_caller_killed_with_sigkill_leaves_a_sessions_run_alive_as_documented() -> None:
    code = """
    one = run("sleep 60", BACKGROUND)
    say(one.pid)
    time.sleep(60)
    """
    with caller(code) as child:
        pid = int(child.wait_line(r"^\d+$").group())
        child.send(signal.SIGKILL)
        child.wait()
        assert [one.pid for one in child.members()] == [pid]
    from safesh import execute_command

    assert "ends with us however we end" in (execute_command.__doc__ or "")


@BACKENDS
def test_a_keeper_killed_with_sigkill_ends_its_tree_and_tells_that_the_status_is_lost(backend: str) -> None:
    code = """
    for mode in (BACKGROUND, BLOCKING):
        def shoot():
            until(lambda: get_active_processes())
            (pid,) = get_active_processes()
            ppid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
            assert ppid in children(), "the keeper is no child of ours"
            time.sleep(0.2)
            os.kill(ppid, signal.SIGKILL)
        thread = threading.Thread(target=shoot)
        thread.start()
        one = run("sleep 60 & setsid sleep 60 & echo x; exec sleep 60", mode, shell=True, contain="keeper", stop=0.2)
        thread.join()
        one.wait(15)
        assert one.done, one
        assert isinstance(one.error, StatusLost) or one.signal, one
        assert one.stdout == "x\\n"
        assert one.leftovers is not None and one.leftovers.ok, one.leftovers
        from safesh.core.contain import group_path
        assert not os.path.isdir(group_path(one.run_id) or "/no/such/folder")
    assert children() == []
    say("ok")
    time.sleep(60)
    """
    with caller(code, extra_env=backend_of(backend)) as child:
        child.wait_line("ok")
        wait_until(lambda: [one.pid for one in child.members()] == [child.pid], 5, "nobody but the caller")


def test_a_keeper_that_somebody_stopped_is_woken_to_end_its_tree() -> None:
    code = """
    one = run("sleep 60", BACKGROUND, contain="keeper", timeout=1.0, stop=0.1)
    os.kill(children()[0], signal.SIGSTOP)
    assert one.wait(10).timed_out and one.done, one
    say("ok")
    """
    with caller(code) as child:
        done(child)


@BACKENDS
def test_an_executor_as_a_context_manager_ends_all_that_it_started(backend: str) -> None:
    code = """
    with CommandExecutor(stop=0.2) as executor:
        mine = [executor.execute("trap '' TERM; sleep 60 & sleep 60; sleep 60", mode, shell=True, contain=contain)
                for mode in (BACKGROUND, INTERACTIVE, MONITORED) for contain in ("session", "keeper")]
        other = run("sleep 60", BACKGROUND)
        assert executor("echo x", shell=True).stdout == "x\\n"
        assert len(executor.running) == 6
    assert all(one.done and one.signal for one in mine), mine
    assert list(get_active_processes()) == [other.pid]
    assert executor.running == [] and executor._started == {}
    try:
        with executor:
            last = executor("sleep 60", BACKGROUND)
            raise KeyError
    except KeyError:
        assert last.done
    say("ok")
    """
    with caller(code, extra_env=backend_of(backend)) as child:
        done(child)


# the portable way ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", in_full(["epoll", "both"], "pidfd_open"))
def test_the_core_promises_hold_without_epoll_and_pidfds(without: str) -> None:
    code = """
    one = run("cat", BACKGROUND)
    for n in range(50):
        assert communicate_with_process(one.pid, f"{n}\\n", timeout=10) == f"{n}\\n"
    size = 3_000_000
    assert len(run("cat", input_data="x" * size, timeout=30).stdout) == size
    assert len(run("cat", BACKGROUND, input_data="x" * size, timeout=30).wait(20).stdout) == size
    got = []
    batch = [run(f"echo {n}; exit {n}", BACKGROUND, shell=True, on_output=got.append, timeout=30) for n in range(30)]
    assert [r.wait(20).return_code for r in batch] == list(range(30)), batch
    assert sorted(got, key=int) == [str(n) for n in range(30)]
    for contain in ("session", "keeper"):
        for mode in (BLOCKING, BACKGROUND):
            late = run("sleep 60 & trap '' TERM; echo x; sleep 60; sleep 60", mode, shell=True, timeout=0.5, stop=0.2,
                       contain=contain)
            assert late.wait(10).timed_out and late.stdout == "x\\n", late
            assert run("exit 3", mode, shell=True, contain=contain, timeout=20).wait(20).return_code == 3
            left = run("sleep 60 & exit 0", mode, shell=True, contain=contain, timeout=20).wait(20)
            assert left.success and left.leftovers.ok, left
    def thread():
        for n in range(10):
            assert run(f"echo {n}", (BLOCKING, BACKGROUND)[n % 2], shell=True).wait(20).stdout == f"{n}\\n"
    threads = [threading.Thread(target=thread) for _ in range(8)]
    for one_thread in threads: one_thread.start()
    for one_thread in threads: one_thread.join()
    end_all()
    assert one.wait(10).done
    until(lambda: children() == [])
    say("ok")
    """
    environment = {} if without == "epoll" else backend_of("posix")
    first = "import os, select\n"
    first += "" if without == "pidfd_open" else "del select.epoll\n"
    first += "" if without == "epoll" else "del os.pidfd_open\n"
    with caller(code, first=first, extra_env=environment) as child:
        done(child)
        assert child.members() == []


def test_the_tests_find_their_helpers() -> None:
    """``Spawn.members`` is what vouches for "nobody left": it must see a caller's grandchildren."""
    code = """
    run("setsid sleep 60", BACKGROUND, shell=True)
    say("up")
    time.sleep(60)
    """
    with caller(code) as child:
        child.wait_line("up")
        wait_until(lambda: any("sleep 60" in one.command for one in child.members()))
    assert procs.look(child.pid) is None
