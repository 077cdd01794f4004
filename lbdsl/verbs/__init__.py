"""The verbs as functions: what the command line does, a program can do too. Re-exported by `lbdsl`."""
