"""The colours of all figures: Okabe and Ito's, which people of all colour visions can tell apart, and violet."""

from __future__ import annotations

from typing import Final

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#6A00D0")
