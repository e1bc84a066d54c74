"""`python -m benchmarks`: runs them in full size; `make bench` is the same."""

import sys

from benchmarks.harness import main

sys.exit(main())
