"""The files that settings name are read before a new configuration is taken: one that is bad refuses all of it.

Above: the processes that read policies and limits, `fabric config check`. Below: `policy`, `limits`.
"""

from __future__ import annotations

from fabric.settings import Settings


def check(old: Settings, new: Settings) -> None:
    """Read those that others were named for; each that is followed already is looked after by whoever follows it.

    Raises:
        ConfigurationError: one cannot be read, or something in it is wrong.
    """
    # Imported when there is something to read: CEL and YAML take longer to load than most commands run.
    if new.policy not in (None, old.policy):
        from fabric.policy.files import load

        load(new.policy)
    if new.limits not in (None, old.limits):
        from fabric.limits.rules import read

        read(new.limits)
