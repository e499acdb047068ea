"""``python -m pyterrier_csplade``: the command line, also for launchers such as torchrun."""

from __future__ import annotations

import sys

from pyterrier_csplade.cli.main import main

sys.exit(main())
