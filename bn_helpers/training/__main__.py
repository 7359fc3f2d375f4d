"""``python -m bn_helpers.training RECIPE``, also under torchrun."""

import sys

from bn_helpers.training.command_line import main

if __name__ == "__main__":
    sys.exit(main())
