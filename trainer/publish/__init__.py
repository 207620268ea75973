"""Publishing: a checkpoint in the formats of those who use it, each checked by its consumer.

    from trainer.publish import load_backbone

Reads what training wrote, and never imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.publish.load import load_backbone

__all__ = ["load_backbone"]


def __getattr__(name: str) -> Any:
    """Import on demand: a wrong option of `trainer publish` does not wait for torch."""
    if name in __all__:
        from trainer.publish.load import load_backbone

        return load_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
