"""Which files of a folder stay behind: `.gitignore` and `.podignore`.

Rules are Git's. `.podignore` comes after `.gitignore` of the same folder, so `!data/` there uploads what
Git ignores. Rules of the folders above count up to the root of the repository. `.git` is never uploaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pathspec

RULE_FILES = (".gitignore", ".podignore")


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules that hold in one folder; `within` adds those of a folder below."""

    specs: tuple[tuple[str, pathspec.GitIgnoreSpec], ...] = ()  # (folder with "/" at its end, its rules)

    def within(self, folder: Path) -> IgnoreRules:
        """Raises OSError for a rule file that cannot be read."""
        lines: list[str] = []
        for name in RULE_FILES:
            file = folder / name
            if file.is_file():
                lines += file.read_text("utf-8", "surrogateescape").splitlines()
        if not lines:
            return self
        base = f"{folder}".rstrip("/") + "/"
        return IgnoreRules((*self.specs, (base, pathspec.GitIgnoreSpec.from_lines(lines))))

    def is_ignored(self, path: str, is_folder: bool) -> bool:
        """The last rule that matches decides; `path` is absolute."""
        if path.rpartition("/")[2] == ".git":
            return True
        for base, spec in reversed(self.specs):
            found = spec.check_file(path.removeprefix(base) + ("/" if is_folder else "")).include
            if found is not None:
                return found
        return False


def rules_above(folder: Path) -> IgnoreRules:
    """The rules of the folders above, within the same Git repository."""
    above: list[Path] = []
    for each in (folder, *folder.parents):
        if each != folder:
            above.append(each)
        if (each / ".git").exists():
            break
    else:
        return IgnoreRules()
    rules = IgnoreRules()
    for each in reversed(above):
        rules = rules.within(each)
    return rules
