"""Stands before torch in the processes that quick tests start (tests/conftest.py)."""

raise RuntimeError("a quick test starts a process that loads torch: mark the test with `torch`")
