"""The state folder: whose it is, who may look in, what it lies on. Looked at, never made."""

from __future__ import annotations

import os
import stat

from safesh import paths
from safesh.clock import format_size
from safesh.diagnose.check import Finding, Subject, fail, ok, warn, worst

_NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs", "gfs2", "ocfs2",
    "vboxsf", "vmhgfs", "prl_fs", "virtiofs", "fuse", "fuseblk", "webdav", "davfs",
}  # fmt: skip
_VOLATILE = {"tmpfs", "ramfs"}
_LITTLE = 64 * 1024 * 1024  # bytes: a few logs' worth
_FEW_FILES = 1000
_MOST_NAMED = 3
_MOST_LOOKED_AT = 5000  # files
_SUN_PATH = 107  # bytes of a Unix socket's name, unix(7)


def check_folder(_subject: Subject) -> Finding:
    home = paths.state_home()
    elsewhere = "export SAFESH_HOME=FOLDER with a folder of yours"
    try:
        info = os.stat(home)
    except FileNotFoundError:
        parent = nearest(home)
        if os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK):
            return worst([ok(f"{home} is not there yet; the first start makes it"), *_open_ways(parent)])
        return fail(f"{home} cannot be made: {parent} is not writable for you", elsewhere)
    except OSError as error:
        return fail(f"{home}: {error.strerror}", elsewhere)
    if not stat.S_ISDIR(info.st_mode):
        return fail(f"{home} is not a folder", elsewhere)
    if info.st_uid != os.geteuid():
        return fail(f"{home} belongs to user {info.st_uid}, not to you ({os.geteuid()})", elsewhere)
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return fail(f"{home} (mode {info.st_mode & 0o7777:o}) is closed to you, or read-only", f"chmod 700 {home}")
    found = f"{home}, yours, mode {info.st_mode & 0o7777:o}"
    if info.st_mode & 0o022:
        return fail(f"{found}: others can put files into it", f"chmod 700 {home}")
    if info.st_mode & 0o077:
        return warn(f"{found}: others can look into it", f"chmod 700 {home}")
    return worst([ok(found), *_open_ways(os.path.dirname(os.path.realpath(home)))])


def nearest(path: str) -> str:
    """The path itself, or the closest folder above it that exists."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _open_ways(folder: str) -> list[Finding]:
    """Folders on the way that others can write: whoever can rename a folder can replace all below it."""
    found = []
    while True:
        mode = os.stat(folder).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            found.append(warn(f"{folder} on the way to it can be written by everybody", f"chmod o-w {folder}"))
        if folder == os.path.dirname(folder):
            return found
        folder = os.path.dirname(folder)


def check_files(_subject: Subject) -> Finding:
    findings = []
    seen = 0
    for folder in project_folders():
        info = os.lstat(folder)
        if stat.S_ISLNK(info.st_mode):
            findings.append(fail(f"{folder} is a symlink, which is not trusted", f"rm {folder}"))
            continue
        findings += _judge(folder, info)
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            findings.append(fail(f"{folder} cannot be read: {error.strerror}", f"ls -ld {folder}"))
            continue
        for name in names:
            if seen == _MOST_LOOKED_AT:
                break
            path = os.path.join(folder, name)
            try:
                info = os.lstat(path)
            except FileNotFoundError:
                continue
            seen += 1
            if stat.S_ISLNK(info.st_mode):
                findings.append(fail(f"{path} is a symlink, which is not trusted", f"rm {path}"))
            elif not stat.S_ISDIR(info.st_mode):
                findings += _judge(path, info)
    if not findings:
        return ok(f"{seen} files, all yours and closed to others")
    found = worst(findings[:_MOST_NAMED])
    if len(findings) > _MOST_NAMED:
        found.found += f"; and {len(findings) - _MOST_NAMED} more"
    return found


def _judge(path: str, info: os.stat_result) -> list[Finding]:
    if info.st_uid != os.geteuid():
        return [fail(f"{path} belongs to user {info.st_uid}, so it is not trusted", f"look at it, then: rm -r {path}")]
    if info.st_mode & 0o022 or (info.st_mode & 0o077 and not stat.S_ISSOCK(info.st_mode)):
        return [warn(f"{path} is open to others (mode {info.st_mode & 0o7777:o})", f"chmod go-rwx {path}")]
    return []


def project_folders() -> list[str]:
    """The projects' folders, symlinks among them too."""
    home = paths.state_home()
    try:
        names = sorted(name for name in os.listdir(home) if not name.startswith("."))
    except OSError:
        return []
    found = [os.path.join(home, name) for name in names]
    return [path for path in found if os.path.isdir(path) or os.path.islink(path)]


def check_filesystem(_subject: Subject) -> Finding:
    from safesh._platform import probe

    return judge_filesystem(*probe.file_system(nearest(paths.state_home())))


def judge_filesystem(kind: str, point: str) -> Finding:
    """What a file system of this type, mounted there, means for locks and records."""
    if not kind:
        return ok("its type is not told by this system")
    found = f"{kind}, mounted on {point}"
    if kind in _NETWORK or kind.startswith("fuse."):
        return warn(
            f"{found}: locks may not hold there, or hang with the server",
            "export SAFESH_HOME=FOLDER with a folder on a local disk",
        )
    if kind in _VOLATILE:
        return warn(
            f"{found}: records and logs are lost at a reboot",
            "nothing, if that is wanted; else export SAFESH_HOME=FOLDER with a folder on a disk",
        )
    return ok(found)


def check_space(_subject: Subject) -> Finding:
    folder = nearest(paths.state_home())
    info = os.statvfs(folder)
    free = info.f_bavail * info.f_frsize
    found = f"{format_size(free)} free"
    if info.f_files:
        found += f", {info.f_favail} more files"
    remedy = f"free some space on the disk of {folder}, or export SAFESH_HOME=FOLDER"
    if (info.f_blocks and not info.f_bavail) or (info.f_files and not info.f_favail):
        return fail(found, remedy)
    if (info.f_blocks and free < _LITTLE) or (info.f_files and info.f_favail < _FEW_FILES):
        return warn(found, remedy)
    return ok(found)


def check_socket(subject: Subject) -> Finding:
    from safesh.diagnose.software import read_config
    from safesh.errors import SafeshError

    try:
        config = read_config(subject)
    except SafeshError:
        config = None
    names = {spec.instance for spec in config.targets.values()} if config is not None else set()
    names |= {
        name.removesuffix(".json")
        for folder in project_folders()
        if os.path.isdir(folder) and os.access(folder, os.R_OK)
        for name in os.listdir(folder)
        if name.endswith(".json")
    }
    # It is bound by its name alone, from within its folder, so only that name has to be short.
    too_long = [name for name in sorted(names) if len(os.fsencode(name + ".sock")) > _SUN_PATH]
    if too_long:
        return fail(f"{too_long[0]}.sock is longer than {_SUN_PATH} bytes", "give the instance a shorter name")
    length = len(os.fsencode(paths.state_home()))
    return ok(f"short enough, for only a socket's own name counts (the folder's has {length} bytes)")
