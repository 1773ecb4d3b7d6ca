"""What the output of a program says about its failure."""

from __future__ import annotations

import pytest

from pod_worker.core.output_evidence import is_disk_full


@pytest.mark.parametrize(
    ("output", "is_full"),
    [
        ("!pdfTeX error: pdflatex: fflush() failed (No space left on device)", True),
        ("/cmr10.pfb>fclose: No space left on device", True),
        ("OSError: [Errno 28] No space left on device: 'model.bin'", True),
        ("OSError: [Errno 122] Disk quota exceeded", True),
        ("Overfull box: the error No space left on device is studied", False),
        ("write to us\nNo space left on device", False),
        ("", False),
    ],
)
def test_only_the_report_of_a_failed_call_means_a_full_disk(output: str, is_full: bool) -> None:
    assert is_disk_full(output) is is_full
