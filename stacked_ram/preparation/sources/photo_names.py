"""Find the photos that a list names: by path, by name alone, or without the suffix."""

from __future__ import annotations

import os
from pathlib import Path

from stacked_ram.images.formats import SUFFIXES
from stacked_ram.preparation.sources.common import inside, split_of, walk
from stacked_ram.runtime.errors import UserError

_PHOTO_SUFFIXES = frozenset().union(*SUFFIXES.values())


class PhotoFinder:
    """The photos of a source, to be found by names, and a count of those that were not found.

    Where a name is not a path below the source, all names are kept in memory.
    """

    def __init__(self, root: Path, table: Path) -> None:
        """Begin with the source's folder and the list that names photos in it."""
        self.root = root
        self.table = table
        within = self.root in table.absolute().parents
        self.beside = table.absolute().parent if within else root
        self.found = 0
        self._missing: list[str] = []  # the first few
        self._missing_count = 0
        self._by_name: dict[str, list[str]] | None = None

    def find(
        self,
        name: str,
        where: str,
        folder: str | None = None,
        near: Path | None = None,
        other: str = "",
    ) -> Path:
        """Return the path of a photo; if there is none, the path that its name says.

        Args:
            name: a path or the end of a path below the source, with or without suffix.
            where: the list and line, for messages.
            folder: preferred, if several folders hold a photo of this name; a split's name stands
                for all the ways to write it.
            near: a folder; photos that share more of its path are preferred.
            other: another name of the photo, of use where the first leaves a choice.

        Raises:
            UserError: the name leads out of the source, or several photos have it.
        """
        path = inside(self.root, name, where)
        for base in (self.root, self.beside):
            here = base / path.relative_to(self.root)
            if here.exists() or here.is_symlink():
                self.found += 1
                return here
        candidates = self._candidates(path.relative_to(self.root).parts)
        if not candidates and other:
            candidates = self._candidates(inside(self.root, other, where).parts[-1:])
        if len(candidates) > 1:
            candidates = self._preferred(candidates, folder, near, other)
        if len(candidates) > 1:
            raise UserError(
                f"{where}: {name!r} may be {candidates[0]} or {candidates[1]}: give the path"
            )
        if candidates:
            self.found += 1
            return self.root / candidates[0]
        self._missing_count += 1
        if len(self._missing) < 3:
            self._missing.append(name)
        return path

    def check(self) -> None:
        """Refuse a list in which no photo was found.

        Raises:
            UserError: naming some.
        """
        if self._missing and not self.found:
            names = ", ".join(map(repr, self._missing))
            raise UserError(
                f"{self.table}: no such file below {self.root}: {names}"
                + (" ..." if self._missing_count > len(self._missing) else "")
                + f" (none of {self._missing_count}): paths are relative to SOURCE"
            )

    def count(self) -> int:
        """Return the number of photos in the source, by their suffixes."""
        return sum(file.suffix.lower() in _PHOTO_SUFFIXES for file in walk(self.root))

    def _preferred(
        self, candidates: list[Path], folder: str | None, near: Path | None, other: str
    ) -> list[Path]:
        chosen = [c for c in candidates if folder and folder in (c.parts[0], split_of(c.parts[0]))]
        if near is not None:
            above = {near, *near.parents}
            shared = [len(above & {*(self.root / path).parents}) for path in candidates]
            chosen = [c for c, n in zip(candidates, shared, strict=True) if n == max(shared)]
        if len(chosen) > 1:
            chosen = [path for path in chosen if path.name == other] or chosen
        return chosen or candidates

    def _candidates(self, parts: tuple[str, ...]) -> list[Path]:
        if self._by_name is None:
            self._by_name = {}
            for file in walk(self.root):
                text = os.fspath(file.relative_to(self.root))
                names = {file.name}
                if file.suffix.lower() in _PHOTO_SUFFIXES:
                    names.add(file.stem)
                for name in names:
                    self._by_name.setdefault(name, []).append(text)
        found = [Path(text) for text in self._by_name.get(parts[-1], ())]
        return [path for path in found if path.parts[-len(parts) : -1] == parts[:-1]]
