"""The Python API: one function for each command of the command line. Re-exported by `lbdsl`."""
