"""docs/settings.md lists every setting with its default, and none that there is not.

Proves: OP-1.
"""

from __future__ import annotations

from pydantic import ByteSize

from docs.pages import codes, read, tables
from fabric.settings import PREFIX, Settings


def _shown(default: object) -> list[str]:
    if default is None or default == ():
        return []
    if isinstance(default, ByteSize):
        return [default.human_readable()]
    return [str(default).lower() if isinstance(default, bool) else str(default)]


def test_the_page_lists_every_setting_with_its_default_and_meaning() -> None:
    (page,) = tables(read("docs/settings.md"))
    listed = [(codes(row["variable"])[0], codes(row["default"]), row["what it is"]) for row in page]
    assert listed == [
        (f"{PREFIX}{name.upper()}", _shown(field.default), field.description)
        for name, field in Settings.model_fields.items()
    ]
