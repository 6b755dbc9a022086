"""What a start would do differently now than the run that is under way."""

from __future__ import annotations

from safesh import config as configs
from safesh.errors import SafeshError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.config import Config


def find(record: dict[str, Any], config: Config | None) -> list[str]:
    """The keys of safe.toml that have changed since the run began, as people wrote them; [] for none.

    A file or target that is gone, or cannot be used any more, is told as one line.
    """
    before = record.get("fingerprint")
    path = record["config"]
    if not isinstance(before, dict) or not path:
        return []
    try:
        if config is None or config.path != path:
            config = configs.load(path)
        name = record["target"]
        if name not in config.targets:
            return [f"{configs.display(path)} has no target {name} any more"]
        now = configs.fingerprint(configs.resolve(config, name))
    except SafeshError as error:
        return [str(error)]
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
