"""Effects: the program of contrib/bin/stead-oci: `python -I -S entry.py ARGUMENTS`, standard library only."""

from __future__ import annotations

import os
import sys

# -I leaves out the directory that our packages are in
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from runtime.oci.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
