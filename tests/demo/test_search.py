"""The search for plaintext finds it wherever it is; otherwise its silence would prove nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sealserve.demo import search

SECRET = bytes(range(200)) * 30


def test_needles_cover_the_data_evenly_and_leave_out_regular_pieces() -> None:
    needles = search.needles_of("model", bytes(10_000) + os.urandom(10_000), count=40)
    assert 15 <= len(needles) <= 40
    assert all(len(set(needle.data)) >= 6 for needle in needles)


@given(st.integers(0, 5000))
def test_a_piece_is_found_at_any_offset(offset: int) -> None:
    findings = search.Findings()
    search.search_bytes(bytes(offset) + SECRET + bytes(100), search.needles_of("model", SECRET), "wire", findings)
    assert findings.found == {"model": ["wire"]}


def test_other_bytes_are_clean() -> None:
    findings = search.Findings()
    search.search_bytes(os.urandom(100_000), search.needles_of("model", SECRET), "wire", findings)
    assert findings.clean
    assert findings.bytes_searched == 100_000


def test_a_piece_across_two_read_windows_of_a_file_is_found(tmp_path: Path) -> None:
    needle = search.Needle("key", os.urandom(24))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(bytes((1 << 20) - 11) + needle.data + bytes(50))
    findings = search.Findings()
    search.search_tree(tmp_path, [needle], findings)
    assert findings.found == {"key": ["sub/file"]}


def test_links_are_not_followed_out_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(SECRET)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "outside")
    findings = search.Findings()
    search.search_tree(tmp_path / "tree", search.needles_of("model", SECRET), findings)
    assert findings.places == 0


def test_plaintext_in_the_memory_of_a_process_is_found() -> None:
    marker = os.urandom(24)
    program = "import sys; held = sys.stdin.buffer.read(24); print('ready', flush=True); sys.stdin.buffer.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(marker)
        process.stdin.flush()
        process.stdout.readline()
        findings = search.Findings()
        search.search_memory(process.pid, [search.Needle("key", marker)], findings)
        process.stdin.close()
    assert findings.unreadable or findings.found == {"key": [f"memory of process {process.pid}"]}
