"""The version of lbdsl, in one place; the project file reads it from here."""

VERSION = "0.1.0"
