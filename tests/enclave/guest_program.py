"""``sealserve`` as it runs in a TDX guest, in the stand-in: ``python guest_program.py DIRECTORY COMMAND …``.

The directory has the machine's keys. Everything but the kernel's files is the program as it is installed.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))
from sealserve.cli.main import main
from sealserve.enclave import attesters, trust_domain
from sealserve.evidence import TsmAttester
from sealserve.evidence.simulated.directory import load_simulated_machine
from trust_domains import Kernel, make_guest

directory = Path(sys.argv.pop(1))
reports, register = make_guest(directory / f"guest-{os.getpid()}", Kernel(load_simulated_machine(directory)))
attesters.TsmAttester = lambda: TsmAttester(reports)  # type: ignore[assignment, misc]
trust_domain.measure_settings = functools.partial(trust_domain.measure_settings, register=register)
main()
