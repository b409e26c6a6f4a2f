"""What only a card can say, in two runs of ten minutes at most. It has never run on one.

It needs torch, transformers, sentence-transformers and what these need, and no network. Nothing of this project has to
be installed: the modules of `onecard` that it uses come from the repository, and without structlog they log nothing.
"""

import importlib.util
import sys
from types import ModuleType
from unittest.mock import Mock

from bench.paths import ROOT

if importlib.util.find_spec("onecard") is None:
    sys.path.append(str(ROOT / "shared"))
if importlib.util.find_spec("structlog") is None:
    silent = ModuleType("onecard.logs")
    vars(silent)["logger"] = Mock
    sys.modules["onecard.logs"] = silent
