"""Imported by every benchmark before the package, which need not be installed for it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
