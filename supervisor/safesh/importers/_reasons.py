"""Why a unit's setting has no counterpart, family by family."""

from __future__ import annotations

import re

from safesh.importers.unitfile import Assignment

_SANDBOX = "safesh does not sandbox: the target has all rights of whoever starts it"
_UNIT = "ties it to other units; start what it needs first"
_LOG = "output goes to safesh's log: safe.sh logs NAME"

# (section, pattern of whole keys, reason); the first that fits counts.
_FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("Install", ".*", "nothing is started at boot; put safe.sh start NAME --detach into @reboot of crontab(5)"),
    ("Unit", "After|Before", "orders units at boot; a target is started when you say so"),
    ("Unit", "Requires|Requisite|Wants|BindsTo|PartOf|Upholds|Conflicts|RequiresMountsFor|JoinsNamespaceOf", _UNIT),
    ("Unit", "OnFailure|OnSuccess|.*Propagate.*|StopWhenUnneeded|DefaultDependencies|Refuse.*|AllowIsolate", _UNIT),
    ("Unit", "(Condition|Assert).*", "no condition is looked at before a start"),
    ("Unit", ".*Action.*|.*RebootArgument|Job.*|CollectMode", "concerns the machine or systemd's jobs"),
    ("Unit", "SourcePath", "says where the unit was made from"),
    ("Service", "PIDFile|GuessMainPID", "the process that was started is the main one; its pid is known"),
    ("Service", "RemainAfterExit", "a target runs while its program does"),
    ("Service", "ExecStartPost|ExecStopPost|ExecStopPre|ExecCondition", "nothing is run around a start or a stop"),
    ("Service", "NotifyAccess|.*NotifyAccess", "nobody listens to sd_notify unless the target waits for it"),
    ("Service", "BusName", "nobody waits for a name on the bus"),
    ("Service", "Timeout.*|.*KillSignal|WatchdogSignal", "after the stop signal and the grace comes SIGKILL"),
    ("Service", "Restart.*ExitStatus", "restart looks at success and failure only"),
    ("Service", "Restart.*|RuntimeRandomizedExtraSec", "has no effect without what it refines"),
    ("Service", "ExitType|OOMPolicy|NonBlocking|RootDirectoryStartOnly|PermissionsStartOnly", "has no counterpart"),
    ("Service", "Sockets|FileDescriptorStore.*|USBFunction.*|OpenFile", "no descriptor is handed to the target"),
    ("Service", "Standard(Output|Error)|Syslog.*|Log[A-Z].*", _LOG),
    ("Service", "Standard(Input.*)", "a detached target reads nothing on its stdin"),
    ("Service", "TTY.*|Utmp.*", "the target gets no terminal of its own"),
    ("Service", "UnsetEnvironment", "put env -u NAME in front of the command"),
    ("Service", "ExecSearchPath", "the program is looked for in PATH; name it in full"),
    ("Service", "Group|SupplementaryGroups|DynamicUser|PAMName|SetLoginEnvironment",
     "a target runs as whoever starts it: sudo -u USER -g GROUP safe.sh start NAME"),
    ("Service", "(Runtime|State|Cache|Logs|Configuration)Directory.*", "no folder is made; make it once"),
    ("Service", "Limit[A-Z]+", "the starter's limit is inherited: set it before, with ulimit(1)"),
    ("Service", "Memory.*|CPU.*|IO.*|Tasks.*|Slice|Delegate|Startup.*|Allowed.*|Managed.*|IP.*|Device.*|BPF.*|Disable.*"
     "|Socket(Bind|Binds).*|NUMA.*", "no other setting of the kernel's control group is made"),
    ("Service", "OOMScoreAdjust|Nice|TimerSlackNSec|CPUSched.*|IOSched.*|CoredumpFilter|IgnoreSIGPIPE|Personality"
     "|LockPersonality|KeyringMode", "the starter's is inherited: choom(1), nice(1), prlimit(1) change it"),
    ("Service", "Private.*|Protect.*|Restrict.*|Read(Only|Write)Paths|(No)?ExecPaths|Inaccessible.*|Bind.*|Temporary.*"
     "|Capability.*|Ambient.*|NoNewPrivileges|Secure.*|SystemCall.*|Mount.*|Root.*|Extension.*|Proc.*|Remove.*"
     "|SELinux.*|AppArmor.*|Smack.*|Network.*|MemoryDeny.*|(Load|Set|Import)Credential.*|UMask|ReadOnlyDirectories"
     "|ReadWriteDirectories|InaccessibleDirectories|IPC.*", _SANDBOX),
)  # fmt: skip


def reason_for(one: Assignment) -> str:
    """What to say of an assignment that nothing has taken."""
    for section, pattern, reason in _FAMILIES:
        if section == one.section and re.fullmatch(pattern, one.key):
            return reason
    if one.section.startswith("X-") or one.key.startswith("X-"):
        return "is private to somebody; systemd passes over it too"
    if one.section not in ("Unit", "Service", "Install"):
        return f"[{one.section}] belongs to no service"
    return "has no counterpart in safe.toml"
