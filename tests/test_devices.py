import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from stacked_ram.config import TrainingConfig
from stacked_ram.devices import set_switches

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(2**24) + torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

set_switches(TrainingConfig(), torch.device("cpu"))
faults(10)
print(faults(5))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_on_the_cpu_is_used_again():
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 1000  # pages; 240,000 when all is handed back
