"""Draw what a trained model looked at: `python viz.py --help`."""

import sys

from stacked_ram.cli.viz import main

if __name__ == "__main__":
    sys.exit(main())
