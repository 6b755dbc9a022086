"""Graphics cards by NVIDIA's own library (``nvidia-ml-py``, the extra ``gpu``), loaded when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from safesh.metrics.model import MIB, GpuInfo
from safesh.vendor import add_site_packages


class Gpus:
    """The cards of this machine. Absent package, driver or card: an empty list and :attr:`reason`."""

    def __init__(self) -> None:
        self.reason = ""
        self._nvml: Any = None
        self._tried = False

    def look(self) -> list[GpuInfo]:
        """Every card; what one does not tell is None. Never raises."""
        nvml = self._open()
        if nvml is None:
            return []
        found = []
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                one = self._look_at(nvml, index)
                if one is not None:
                    found.append(one)
        except nvml.NVMLError as error:
            # A driver that was exchanged under us answers nothing until its library is opened anew.
            self.reason = f"the driver no longer answers: {error}"
            self.close()
            return []
        self.reason = "" if found else "the driver knows of no card"
        return found

    def _open(self) -> Any:
        if self._nvml is not None or self._tried:
            return self._nvml
        self._tried = True
        add_site_packages()
        try:
            import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            self.reason = "nvidia-ml-py is not installed (pip install 'safesh[gpu]')"
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self.reason = f"no NVIDIA driver answers: {error}"
            return None
        self._nvml = pynvml
        return pynvml

    def _look_at(self, nvml: Any, index: int) -> GpuInfo | None:
        def ask(question: Callable[[], Any]) -> Any:
            try:
                return question()
            except (nvml.NVMLError, AttributeError, UnicodeDecodeError):  # not every card and library tells everything
                return None

        card = ask(lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        if card is None:  # lost, or not ours to see
            return None
        name = ask(lambda: nvml.nvmlDeviceGetName(card))
        uuid = ask(lambda: nvml.nvmlDeviceGetUUID(card))
        memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(card))
        load = ask(lambda: nvml.nvmlDeviceGetUtilizationRates(card))
        power = ask(lambda: nvml.nvmlDeviceGetPowerUsage(card))
        heat = ask(lambda: nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU))
        found = GpuInfo(index=index, name=_text(name) or f"card {index}", uuid=_text(uuid))
        if load is not None:
            found.utilization_percent = float(load.gpu)
        if memory is not None:
            found.memory_used_mb, found.memory_total_mb = memory.used / MIB, memory.total / MIB
        if power is not None:
            found.power_w = power / 1000.0
        if heat is not None:
            found.temperature_c = float(heat)
        for kind in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            for one in ask(partial(_list_of, nvml, kind, card)) or ():
                held = None if one.usedGpuMemory is None else one.usedGpuMemory / MIB
                # A process that draws and computes is listed twice with the same memory.
                found.processes[int(one.pid)] = max(found.processes.get(int(one.pid)) or 0.0, held) if held else held
        return found

    def close(self) -> None:
        """Let go of the library; the next look opens it anew."""
        nvml, self._nvml, self._tried = self._nvml, None, False
        if nvml is not None:
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                pass


def _list_of(nvml: Any, kind: str, card: Any) -> Any:
    return getattr(nvml, kind)(card)


def _text(value: Any) -> str:
    """Older releases of the library give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
