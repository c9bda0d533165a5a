"""Turn a folder or an archive of photos into a data set: prepare_data.py SOURCE DEST [options].

python prepare_data.py ../shared/data/flowers17 datasets/flowers17
python prepare_data.py --help
"""

import sys

from stacked_ram.preparing.cli import main

if __name__ == "__main__":
    sys.exit(main())
