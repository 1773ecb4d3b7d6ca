"""The counter of OOM kills: ours, not those of other cgroups."""

from pathlib import Path

import pytest

from pod_worker.process.oom_kills import OomKillCounter, counter_file


def write(file: Path, kills: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"oom 0\noom_kill {kills}\noom_group_kill 0\n")
    return file


@pytest.mark.parametrize(
    ("membership", "name"),
    [
        ("0::/job/7\n", "job/7/memory.events"),
        ("4:memory:/job/7\n0::/\n", "memory/job/7/memory.oom_control"),
        ("5:cpu,memory:/job/7\n", "memory/job/7/memory.oom_control"),
        ("0::/hidden/by/the/container\n", "memory.events"),
        ("4:memory:/hidden/by/the/container\n", "memory/memory.oom_control"),
    ],
)
def test_the_cgroup_of_the_process_counts(tmp_path: Path, membership: str, name: str) -> None:
    memberships = tmp_path / "cgroup"
    memberships.write_text(membership)
    wanted = write(tmp_path / "root" / name, 0)
    write(tmp_path / "root" / "neighbour" / "memory.events", 5)
    assert counter_file(memberships, tmp_path / "root", write(tmp_path / "vmstat", 9)) == wanted


def test_a_machine_without_cgroups_counts_all_its_processes(tmp_path: Path) -> None:
    machine = write(tmp_path / "vmstat", 9)
    assert counter_file(tmp_path / "absent", tmp_path, machine) == machine


def test_a_kill_after_the_start_is_seen(tmp_path: Path) -> None:
    file = write(tmp_path / "memory.events", 3)
    counter = OomKillCounter(file)
    assert not counter.has_increased()
    write(file, 4)
    assert counter.has_increased()
