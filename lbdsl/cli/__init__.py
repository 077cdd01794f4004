"""The command line: one file per command."""

VERBS = {
    "demo": "Compress a small model, judge it, and write its report: a first look.",
    "check": "Parse, type-check and lint recipes; needs no model.",
    "fmt": "Rewrite recipes in their canonical form.",
    "explain": "What a code, an action, a metric or a word of the language means.",
    "convert": "Convert a recipe between .lbr, JSON and YAML.",
    "init": "Write a starter recipe that fits a model.",
    "inspect": "Layers, shapes and sizes of a model, from its headers.",
    "measure": "Measure what a recipe needs of a model, and keep it.",
    "plan": "Show what a recipe would do to a model, and what it costs and gains.",
    "show": "Show a saved plan or an artifact again.",
    "report": "Write an artifact's plan, quality and speed as one HTML page.",
    "diff": "Two plans side by side, and where they differ.",
    "apply": "Change, heal, judge and save a model.",
    "eval": "Judge an artifact against its base model.",
    "verify": "Whether an artifact is as it was saved, and as good as its record says.",
    "bench": "Time an artifact against its base model.",
    "calibrate": "Time a model's parts in an engine, to predict plans.",
    "export": "Write an artifact in a format that an engine reads.",
    "push": "Put an artifact, or an export of it, on the Hugging Face hub.",
    "cache": "List what lbdsl keeps between runs, and delete it by kind and age.",
    "lsp": "Serve an editor: findings, completion, hints.",
    "completions": "Print what makes a shell complete lbdsl.",
}
"""Each command's description in `lbdsl --help`."""
