"""A folder of Python sources: which there are, and the text of one. Nothing outside the folder is ever read.

Above: `reader.py`, which serves it, and `demo.py`, which looks whether there is anything to review. Below: the file
system.
"""

from __future__ import annotations

import os
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = "REVIEW_ROOT"
SKIP: Final = "REVIEW_SKIP"

_NEVER: Final = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
"""Folders with what others wrote or what is made again; hidden folders and virtual environments are left out too."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One source tree."""

    root: Path
    skip: frozenset[str] = frozenset()
    """Names of further folders to leave out."""

    @classmethod
    def from_environment(cls) -> Tree:
        """The tree of `REVIEW_ROOT`, without the folders in `REVIEW_SKIP` (names with commas between)."""
        if ROOT not in os.environ:
            raise LookupError(f"set {ROOT} to the folder to review")
        skip = frozenset(filter(None, os.environ.get(SKIP, "").split(",")))
        return cls(Path(os.environ[ROOT]).resolve(), skip)

    def environment(self) -> dict[str, str]:
        """What `from_environment` reads."""
        return {ROOT: str(self.root), SKIP: ",".join(sorted(self.skip))}

    def sources(self) -> list[str]:
        """The Python files, as sorted paths from the root. Links to folders are not followed."""
        found: list[str] = []
        for folder, folders, files in os.walk(self.root):
            here = Path(folder)
            folders[:] = [name for name in folders if self._wanted(here / name)]
            paths = (here / name for name in files if name.endswith(".py"))
            found += [path.relative_to(self.root).as_posix() for path in paths if self._inside(path)]
        return sorted(found)

    def read(self, path: str) -> str:
        """The text of the Python file at `path` from the root, decoded as Python itself would.

        Raises:
            FileNotFoundError: there is no such file, it is no Python file, or it is not inside the root.
            SyntaxError, UnicodeDecodeError: it is not text in the encoding it declares.
        """
        file = self.root / path
        if file.suffix != ".py" or "\0" in path or not self._inside(file):
            raise FileNotFoundError(path)
        with tokenize.open(file) as text:
            return text.read()

    def _wanted(self, folder: Path) -> bool:
        if folder.name.startswith(".") or folder.name in _NEVER or folder.name in self.skip:
            return False
        return os.access(folder, os.R_OK | os.X_OK) and not (folder / "pyvenv.cfg").exists()

    def _inside(self, file: Path) -> bool:
        """Whether `file` is a file inside the root once every `..` and every link is resolved."""
        real = file.resolve()
        return real.is_relative_to(self.root) and real.is_file()
