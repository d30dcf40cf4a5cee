"""`python -m praxis_sdk.cli` is the same as `praxis`."""

import sys

from praxis_sdk.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
