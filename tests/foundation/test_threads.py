"""How threads of requests end with their process."""

from __future__ import annotations

import subprocess
import sys
import time

_PROGRAM = """
import threading, time
from sealserve import threads
threads._LAST_SECONDS = {seconds}
executor = threads.RequestThreads(2)
begun = threading.Event()
def call():
    begun.set()
    time.sleep({call})
    print("ended", flush=True)
executor.submit(call)
begun.wait()
"""


def run(**numbers):
    program = _PROGRAM.format(**numbers)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)


def test_a_call_in_flight_ends_before_the_process():
    done = run(seconds=30, call=0.3)
    assert (done.stdout, done.stderr) == ("ended\n", "")


def test_a_call_that_does_not_end_keeps_the_process_for_some_seconds_only():
    start = time.monotonic()
    assert run(seconds=0.1, call=30).stdout == ""
    assert time.monotonic() - start < 20
