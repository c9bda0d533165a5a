"""Train, test and use models that look at photographs: `python main.py --help`."""

import sys

from stacked_ram.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
