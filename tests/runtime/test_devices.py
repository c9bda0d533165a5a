import platform
import subprocess
import sys

import pytest
import torch

from stacked_ram.runtime import devices
from stacked_ram.runtime.devices import has_fast_bf16, pick_device
from stacked_ram.runtime.errors import UserError

FAULTS = """
import resource
import torch
from stacked_ram.config.schema import TrainingConfig
from stacked_ram.runtime.devices import set_switches

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
def test_freed_memory_is_reused_on_the_cpu():
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 1000  # pages; 240,000 if all memory were returned


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert pick_device("auto") == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cuda:0") == torch.device("cuda:0")
    assert [device.index for device in chosen] == [0, 1, 1, 0]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="cuda:2, but there are 2 GPUs"):
        pick_device("auto")


@pytest.mark.parametrize(
    ("line", "fast"),
    [
        ("flags\t\t: fpu sse2 avx2 fma", False),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("Features\t: fp asimd", False),
    ],
)
def test_fast_bf16_is_detected_from_the_instruction_sets(line, fast, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
    monkeypatch.setattr(devices, "Path", lambda name: tmp_path / "cpuinfo")
    devices.cpu_features.cache_clear()
    assert has_fast_bf16(torch.device("cpu")) is fast
    monkeypatch.undo()
    devices.cpu_features.cache_clear()
