"""Deleting what a program left: closed folders, links, pipes, names that are no UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pod_worker.process.removal import remove


def test_every_kind_of_entry_goes_and_no_link_is_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    left = tmp_path / "left"
    (left / "a" / "b").mkdir(parents=True)
    (left / "a" / "link").symlink_to(kept)
    os.mkfifo(left / "pipe")
    with open(os.fsencode(left) + b"/\xff", "w"):
        pass
    remove(left)
    assert not left.exists()
    assert (kept / "file").exists()
    link = tmp_path / "link"
    link.symlink_to(kept)
    remove(link)
    assert not link.is_symlink()
    assert (kept / "file").exists()
    remove(tmp_path / "nothing")


def test_closed_folders_inside_closed_folders_are_opened(open_folder: Path) -> None:
    """As a user without privileges: root may enter every folder."""
    place = open_folder / "removal"
    place.mkdir()
    place.chmod(0o777)
    program = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from pod_worker.process.removal import remove
if os.geteuid() == 0:
    os.setgid(61_997); os.setuid(61_997)
top = Path({str(place)!r}) / "top"
(top / "a" / "b" / "c").mkdir(parents=True)
for folder in (top / "a" / "b", top / "a", top):
    folder.chmod(0)
remove(top)
sys.exit(top.exists())
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
