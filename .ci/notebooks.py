"""Run the notebooks of examples/ from a clean state, each in an empty folder.

    python .ci/notebooks.py [--write] [NAME ...]

NAME: of notebooks, without .ipynb; default: all. As many run at a time as there are cores, each
with one thread. An error in a cell ends with exit code 1. --write keeps the new outputs in the
notebooks, to be committed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    names = options.names or sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))
    if len(names) > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, __file__, *(["--write"] if options.write else [])]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            codes = pool.map(lambda name: subprocess.run([*command, name]).returncode, names)
        return max(codes)

    import nbformat  # late: --help needs no packages
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    # the kernel imports this clone, and shows figures inline
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ.pop("MPLBACKEND", None)
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress"  # huggingface_hub misses ipywidgets
    failed = 0
    for path in (EXAMPLES / f"{name}.ipynb" for name in names):
        notebook = nbformat.read(path, as_version=4)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            client = NotebookClient(
                notebook,
                timeout=600,
                kernel_name="python3",
                resources={"metadata": {"path": folder}},
                coalesce_streams=True,
                record_timing=False,
            )
            try:
                client.execute()
            except (CellExecutionError, CellTimeoutError) as error:
                print(f"{path.name}: {error}", file=sys.stderr)
                failed += 1
                continue
        print(f"{path.name} {time.monotonic() - started:.0f} s", flush=True)
        if options.write:
            notebook.metadata["language_info"] = {"name": "python"}  # no version to change
            nbformat.write(notebook, path)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
