"""safesh: run it once, see all of it, stop all of it."""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh.errors import (
        ArgumentsTooLong as ArgumentsTooLong,
    )
    from safesh.errors import (
        CommandNotExecutable as CommandNotExecutable,
    )
    from safesh.errors import (
        CommandNotFound as CommandNotFound,
    )
    from safesh.errors import (
        ConfigError as ConfigError,
    )
    from safesh.errors import (
        ResourceError as ResourceError,
    )
    from safesh.errors import (
        SafeshError as SafeshError,
    )
    from safesh.mission.model import Mission as Mission
    from safesh.mission.result import MissionResult as MissionResult
    from safesh.mission.runner import TaskRunner as TaskRunner
    from safesh.model import Limit as Limit
    from safesh.model import Limits as Limits
    from safesh.model import Member as Member
    from safesh.model import StopPolicy as StopPolicy
    from safesh.model import Verdict as Verdict
    from safesh.plan.monitor import ExecutionMonitor as ExecutionMonitor
    from safesh.plan.orchestrator import Orchestrator as Orchestrator
    from safesh.plan.report import report as report
    from safesh.process.aio import CommandStream as CommandStream
    from safesh.process.aio import OutputLine as OutputLine
    from safesh.process.aio import aexecute_command as aexecute_command
    from safesh.process.aio import astream_command as astream_command
    from safesh.process.api import CommandExecutor as CommandExecutor
    from safesh.process.api import ExecutionMode as ExecutionMode
    from safesh.process.api import Options as Options
    from safesh.process.api import execute_command as execute_command
    from safesh.process.byname import find_processes_by_name as find_processes_by_name
    from safesh.process.byname import kill_processes_by_name as kill_processes_by_name
    from safesh.process.conversation import communicate_with_process as communicate_with_process
    from safesh.process.errors import CommandFailed as CommandFailed
    from safesh.process.errors import CommandTimeout as CommandTimeout
    from safesh.process.errors import InvalidCommand as InvalidCommand
    from safesh.process.errors import LimitExceeded as LimitExceeded
    from safesh.process.errors import NoSuchProcess as NoSuchProcess
    from safesh.process.errors import NotManaged as NotManaged
    from safesh.process.errors import ProcessError as ProcessError
    from safesh.process.errors import Refused as Refused
    from safesh.process.errors import StatusLost as StatusLost
    from safesh.process.errors import StdinClosed as StdinClosed
    from safesh.process.errors import UndecodableOutput as UndecodableOutput
    from safesh.process.logs import JsonFormatter as JsonFormatter
    from safesh.process.monitor import Sample as Sample
    from safesh.process.reading import get_process_output_info as get_process_output_info
    from safesh.process.reading import read_from_process as read_from_process
    from safesh.process.result import ExecutionResult as ExecutionResult
    from safesh.process.result import Usage as Usage
    from safesh.process.secure_env import SecureEnv as SecureEnv
    from safesh.process.status import cleanup_finished_processes as cleanup_finished_processes
    from safesh.process.status import get_active_processes as get_active_processes
    from safesh.process.status import get_process_status as get_process_status
    from safesh.process.stopping import end_all as end_all
    from safesh.process.stopping import interrupt_process as interrupt_process
    from safesh.process.stopping import kill_process as kill_process
    from safesh.process.stopping import kill_process_tree as kill_process_tree
    from safesh.process.stopping import send_signal_to_process as send_signal_to_process
    from safesh.process.stopping import terminate_managed_process as terminate_managed_process
    from safesh.process.stopping import terminate_process as terminate_process
    from safesh.process.writing import write_to_process as write_to_process

# Where each public name lives. It is imported when it is first used: the command line imports this package too.
_HOMES = {
    "errors": "ArgumentsTooLong CommandNotExecutable CommandNotFound ConfigError ResourceError SafeshError",
    "model": "Limit Limits Member StopPolicy Verdict",
    "mission.model": "Mission",
    "mission.result": "MissionResult",
    "mission.runner": "TaskRunner",
    "plan.monitor": "ExecutionMonitor",
    "plan.orchestrator": "Orchestrator",
    "plan.report": "report",
    "process.aio": "CommandStream OutputLine aexecute_command astream_command",
    "process.api": "CommandExecutor ExecutionMode Options execute_command",
    "process.byname": "find_processes_by_name kill_processes_by_name",
    "process.conversation": "communicate_with_process",
    "process.errors": (
        "CommandFailed CommandTimeout InvalidCommand LimitExceeded NoSuchProcess NotManaged ProcessError Refused "
        "StatusLost StdinClosed UndecodableOutput"
    ),
    "process.logs": "JsonFormatter",
    "process.monitor": "Sample",
    "process.reading": "get_process_output_info read_from_process",
    "process.result": "ExecutionResult Usage",
    "process.secure_env": "SecureEnv",
    "process.status": "cleanup_finished_processes get_active_processes get_process_status",
    "process.stopping": (
        "end_all interrupt_process kill_process kill_process_tree send_signal_to_process "
        "terminate_managed_process terminate_process"
    ),
    "process.writing": "write_to_process",
}

if not TYPE_CHECKING:  # a checker that sees it takes every misspelt name for one that there is

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names.split():
                from importlib import import_module

                found = getattr(import_module(f"safesh.{home}"), name)
                globals()[name] = found
                return found
        raise AttributeError(f"module 'safesh' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *" ".join(_HOMES.values()).split()})
