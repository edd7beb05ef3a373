"""`python -m fastpmf`, the same as `fastpmf`."""

from fastpmf.cli import main

raise SystemExit(main())
