"""Editor support: a language server, a Pygments lexer and a TextMate grammar.

Everything is derived from the parser's tables and the registries. Only `server.py`, `features.py` and
`protocol.py` need pygls, which comes with `pip install ".[editor]"` in a checkout of lbdsl. Nothing here loads torch.
"""
