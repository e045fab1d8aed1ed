"""Options by name, checked as Python checks its own: a misspelt one is told at once, under the name that was called.

Above: the client, agents. Below: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_options(function: str, given: Mapping[str, Any], known: type) -> None:
    """Nothing, if `known`, a `TypedDict`, has all names of what was `given` to `function`.

    Raises:
        TypeError: it has not.
    """
    for name in given.keys() - known.__annotations__.keys():
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
