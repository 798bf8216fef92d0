"""Which columns a text is made of, and how their cells become one text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def split_names(names: str, there: Iterable[str] = ()) -> list[str]:
    """Return the columns of a setting: one, or several with commas between them.

    Args:
        names: as the user wrote it.
        there: the columns of the table; one of them may have commas in its own name.
    """
    if names in there:
        return [names]
    return [name.strip() for name in names.split(",") if name.strip()] or [names]


def joined(cells: Sequence[str]) -> str:
    """Return the text of a row's columns: a single one as it is, of several those that are not empty."""
    full = [cell for cell in cells if cell.strip()]
    return full[0] if len(full) == 1 else " ".join(cell.strip() for cell in full)


def named(names: Sequence[str]) -> str:
    """Return columns as the beginning of a sentence: ``column 'a' is``."""
    listed = ", ".join(repr(name) for name in names)
    return f"column {listed} is" if len(names) == 1 else f"the columns {listed} are all"
