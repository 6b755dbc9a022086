"""Which watchers a target has. Each is imported only by the supervisor of a target that configured it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh.supervise.run import LiveRun
    from safesh.supervise.supervisor import Supervisor
    from safesh.supervise.watcher import Watcher


def for_run(supervisor: Supervisor, run: LiveRun) -> list[Watcher]:
    """Those of one run, made before its keeper is forked; closed when the run is over."""
    found: list[Watcher] = []
    spec = supervisor.spec
    supervisor.record.pop("health", None)
    supervisor.record.pop("notify", None)
    supervisor.record.pop("sample", None)
    if spec.ready.kind or spec.health.kind:
        found += _probers(supervisor, run)
    limits = spec.limits.__dict__.values()
    if any(getattr(limit, "most", 0) for limit in limits):
        from safesh.supervise.limits import LimitsWatcher

        found.append(LimitsWatcher(supervisor, run))
    return found


def _probers(supervisor: Supervisor, run: LiveRun) -> list[Watcher]:
    """Readiness and health, and the socket they may share."""
    found: list[Watcher] = []
    spec, notify = supervisor.spec, None
    if spec.ready.notify or spec.health.notify:
        from safesh.supervise.notify_socket import NotifySocket

        found.append(notify := NotifySocket(supervisor, run))
        if spec.health.notify:
            run.extra_env["WATCHDOG_USEC"] = str(int(spec.health.max_age * 1e6))
    if spec.ready.kind:
        from safesh.supervise.readiness import Readiness

        found.append(Readiness(supervisor, run, notify))
    if spec.health.kind:
        from safesh.supervise.health import Health

        found.append(Health(supervisor, run, notify))
    return found


def for_instance(supervisor: Supervisor) -> list[Watcher]:
    """Those that live as long as the supervisor and are not there yet: a restart's new spec may want more."""
    found: list[Watcher] = []
    if supervisor.spec.ready.kind and "NOTIFY_SOCKET" in os.environ:
        from safesh.supervise.upward import Upward

        found.append(Upward())
    if supervisor.spec.notify:
        from safesh.supervise.hooks import Post

        if not any(isinstance(one, Post) for one in supervisor.watchers):
            found.append(Post(supervisor))
    if supervisor.spec.depends_on:
        from safesh.supervise.needs import NeedsWatcher

        if not any(isinstance(one, NeedsWatcher) for one in supervisor.watchers):
            found.append(NeedsWatcher(supervisor))
    if supervisor.spec.sample:
        from safesh.supervise.sampling import Sampling

        if not any(isinstance(one, Sampling) for one in supervisor.watchers):
            found.append(Sampling(supervisor))
    return found
