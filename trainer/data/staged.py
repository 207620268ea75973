"""Betons that `trainer stage` has copied to this node: read there, under the names that they have everywhere.

So recipes, run folders and checkpoints know the originals alone, and a run goes on wherever it is started again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

STAGED: Final = "TRAINER_STAGED"
"""The variable that holds them: a JSON object, the absolute path of the original to that of the copy."""


def staged(path: str | Path) -> Path:
    """Where this node reads a beton: its copy, if it has one."""
    copies = json.loads(os.environ.get(STAGED) or "{}")
    return Path(copies.get(os.path.abspath(path), path))


def as_variable(copies: Mapping[Path, Path]) -> str:
    """The content of the variable."""
    return json.dumps({os.path.abspath(original): str(copy) for original, copy in copies.items()})
