"""Programs of Debian that `make debian` has unpacked into the venv, where nothing is installed and nobody was root."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

DEBIAN: Final = Path(sys.prefix) / "debian"
"""Where they are, if they could be had."""
LIBRARIES: Final = {"LD_LIBRARY_PATH": str(DEBIAN / f"usr/lib/{os.uname().machine}-linux-gnu")}
"""What their environment needs, to find what was unpacked with them."""
