"""`python -m rocmforge_torch.cli COMMAND`: the `rocmforge` command of this interpreter."""

from __future__ import annotations

from . import main

if __name__ == "__main__":
    main()
