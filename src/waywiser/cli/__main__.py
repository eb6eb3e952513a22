"""`python -m waywiser.cli`."""

import sys

from waywiser.cli import main

sys.exit(main())
