"""Turn a folder or an archive of photos into a data set: prepare_data.py SOURCE DEST [options].

python prepare_data.py ../shared/data/flowers17 datasets/flowers17
python prepare_data.py --help
"""

import sys

if __name__ == "__main__":  # worker processes load this file too, and need nothing of it
    from stacked_ram.cli.prepare import main

    sys.exit(main())
