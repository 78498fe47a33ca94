"""Where every method stands at equal bytes: the rows of a catalogue by log, method and budget.

A method is a name in the registry; its settings are *places*. Two notions are kept apart: what a
place keeps *of the full model*, which is the uncompressed base model, and what a trained variant
keeps *of its own* uncompressed state. Only the first compares methods.
"""

from gistrec.catalogue import BUDGETS
from gistrec.standings._drawing import drawing
from gistrec.standings._page import drawing_name, measured, page, table
from gistrec.standings._places import FOCUS, LEVELS, Place, Standing, Standings, of
from gistrec.standings._words import claims, controls, findings

__all__ = [
    "BUDGETS",
    "FOCUS",
    "LEVELS",
    "Place",
    "Standing",
    "Standings",
    "claims",
    "controls",
    "drawing",
    "drawing_name",
    "findings",
    "measured",
    "of",
    "page",
    "table",
]
