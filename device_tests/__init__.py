"""Tests of edge-train that need root or system packages, of its public names.

`make test-system` runs them on emulated boards. Nothing here is shipped in the wheel.
"""
