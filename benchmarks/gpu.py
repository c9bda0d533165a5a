"""Everything that needs a GPU, in one run of under 8 minutes: correctness first, then speed.

    python benchmarks/gpu.py [--out gpu.json]         on a CUDA GPU
    python benchmarks/gpu.py --device cpu --quick     the same code, a few steps of each

Nothing is needed beyond torch and this package, and timm for two parts, which are left out
without it. Digits are made here. Each part (gpu_check.py, gpu_digits.py, gpu_engine.py,
gpu_backbone.py) runs in its own process with its own share of the time, so that one that fails or
takes too long costs the others nothing.

    check     patches and losses against float64 on the CPU; the graph against step by step
    digitsN   training steps of the paper's model at NxN, everything on the device: canvases
              composed or shifted, rollouts, losses, optimiser
                reference   glimpses cut in a Python loop over the photos (peers.py)
                eager       this package, kernel by kernel
                graph       the step replayed as one CUDA graph
                compiled    the step compiled first, then replayed
    engine    the trainer's own epochs at 28x28 (loader, shifts, step), `cuda_graph` off and on
    backbone  96-pixel patches through a backbone in bf16, channels-last, beside the same backbone
              trained on random tensors of as many patches

Rates by the clock: of `graph` and `compiled` whole epochs without a host synchronisation (torch
raises an error at one), of `engine` whole epochs, of the others some steps. float32 products are
TF32 where the card has it, but for `check`.
"""

from __future__ import annotations

from gpu_backbone import backbone
from gpu_check import check
from gpu_digits import digits
from gpu_engine import engine
from gpu_parts import run_all

PARTS = {  # and the most seconds that each may take
    "check": (check, 60),
    "digits28": (digits, 150),
    "engine": (engine, 100),
    "backbone": (backbone, 100),
    "digits100": (digits, 90),
    "digits60": (digits, 90),
}


def main() -> None:
    run_all(__file__, __doc__, PARTS)


if __name__ == "__main__":
    main()
