"""Settings of the process that the command line applies, and that an import leaves alone."""

import subprocess
import sys

import pytest

SCRIPT = """
import gc
import sys

import smesolve
from smesolve.process_settings import apply_process_settings


class Knot:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("collected", gc.get_freeze_count() == 0)


for _ in range(int(sys.argv[1])):
    apply_process_settings()
knot = Knot()
"""


@pytest.mark.parametrize(("calls", "printed"), [(0, "collected True\n"), (1, ""), (2, "")])
def test_the_end_of_a_process_collects_garbage_unless_the_settings_are_applied(calls, printed):
    command = [sys.executable, "-c", SCRIPT, str(calls)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == printed
