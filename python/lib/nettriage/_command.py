"""The command line."""

import sys

from . import _nettriage


def main() -> int:
    """Run the command that ``sys.argv`` names; return its exit code."""
    return _nettriage.main(["nettriage", *sys.argv[1:]])
