"""Tests of lbdsl.evaluate."""
