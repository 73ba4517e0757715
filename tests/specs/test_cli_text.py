"""Text in encodings that lack some of its characters, and process 1 of a container."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.cli.send import payload_of
from callboard.cli.text import escaped, tolerate_any_encoding
from callboard.protocols.errors import BadOption

UNSHARE = shutil.which("unshare")


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_json_says_the_same_in_any_encoding(value: object) -> None:
    document = json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass").decode(errors="replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        shown = escaped(document)
    assert shown.isascii()
    assert json.loads(shown) == json.loads(document)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "koi8-r"])
def test_what_an_encoding_lacks_is_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr("sys.stdout", out)
    tolerate_any_encoding()
    out.write("\N{SLIGHTLY SMILING FACE} ok")
    out.flush()
    assert out.buffer.getvalue() == b"? ok"  # type: ignore[attr-defined]


def test_a_payload_is_read_as_utf_8_whatever_the_locale_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = '"\N{CYRILLIC SMALL LETTER O}"'.encode()
    (tmp_path / "payload").write_bytes(b"\xef\xbb\xbf" + content)
    assert payload_of(f"@{tmp_path / 'payload'}") == "\N{CYRILLIC SMALL LETTER O}"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    assert payload_of("-") == "\N{CYRILLIC SMALL LETTER O}"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="ascii"))
    for bad, where in (("-", "byte 1 is no UTF-8"), ("bytes \udcff", "character 7 is no Unicode")):
        with pytest.raises(BadOption, match=where):
            payload_of(bad)


# -- process 1

BODY = """
import os, signal, subprocess, sys, time
from pathlib import Path
from callboard.cli.init import go_on_in_child
go_on_in_child()
assert os.getpid() != 1
command = ["sh", "-c", "sleep 0.2 >/dev/null & echo $!"]
orphan = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.strip()
deadline = time.monotonic() + 60
while Path("/proc", orphan).exists():
    assert time.monotonic() < deadline, "nobody took the orphan in"
    time.sleep(0.01)
print("ready", flush=True)
{end}
"""


def process_1(end: str) -> subprocess.Popen[str]:
    """A Python that is process 1 of a namespace, and runs BODY."""
    assert UNSHARE is not None
    command = [UNSHARE, "--pid", "--fork", "--mount-proc", sys.executable, "-c", BODY.format(end=end)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def may_unshare() -> bool:
    return (
        UNSHARE is not None
        and not subprocess.run(
            [UNSHARE, "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
        ).returncode
    )


needs_namespaces = pytest.mark.skipif(not may_unshare(), reason="process 1 needs a namespace of its own, and that root")


@needs_namespaces
def test_process_1_takes_orphans_in_and_ends_as_its_command_does() -> None:
    process = process_1("sys.exit(7)")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (7, "ready\n", "")


@needs_namespaces
def test_process_1_hands_on_a_signal_that_the_kernel_would_spare_it() -> None:
    process = process_1("time.sleep(600)")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (inner,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    subprocess.run(["kill", "-TERM", inner], check=True)
    deadline = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.returncode == 128 + signal.SIGTERM
    process.communicate()
