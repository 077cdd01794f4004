"""Parse text to a syntax tree. Each statement is parsed on its own, so that one run finds every error of a file."""

from __future__ import annotations

from lbdsl.core.diagnostic import Diagnosed, refused
from lbdsl.core.span import Source, Span
from lbdsl.language import tree
from lbdsl.language.layout import split_statements
from lbdsl.language.lexer import lex
from lbdsl.language.limits import MAX_BYTES, MAX_RULES, MAX_TOKENS
from lbdsl.language.parser import Failure, Parser


def parse(source: Source) -> Diagnosed[tree.File]:
    """The tree of a recipe, with the statements that parsed even when others did not; None for a text beyond a limit."""
    size = len(source.text) if len(source.text) > MAX_BYTES else len(source.text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        return _beyond(source, 0, f"recipe larger than {MAX_BYTES // 2**20} MiB")
    lexed = lex(source.text)
    if not lexed.complete:
        return _beyond(source, lexed.tokens[-1].start, f"recipe with more than {MAX_TOKENS} tokens")
    chunks, found = split_statements(source, lexed.tokens)
    parser = Parser(source)
    statements: list[tree.Statement] = []
    joined = -1
    for index, chunk in enumerate(chunks):
        if chunk.broken or index == joined:
            continue
        node = parser.parse(chunk.tokens)
        if not isinstance(node, Failure):
            statements.append(node)
            continue
        from lbdsl.language.mistakes import explain_failure  # lazy: only needed after an error

        following = chunks[index + 1].tokens if index + 1 < len(chunks) else ()
        problem, both = explain_failure(source, chunk.tokens, node, following)
        joined = index + 1 if both else joined
        found.append(problem)
    rules = [statement for statement in statements if isinstance(statement, tree.RuleStatement)]
    if len(rules) > MAX_RULES:
        return _beyond(source, rules[MAX_RULES].span.start, f"recipe with more than {MAX_RULES} rules")
    comments = tuple(Span(source, token.start, token.end) for token in lexed.comments)
    file = tree.File(source, tuple(statements), comments, len(lexed.tokens))
    return Diagnosed(file, tuple(sorted([*found, *parser.diagnostics], key=lambda problem: problem.place)))


def _beyond(source: Source, at: int, message: str) -> Diagnosed[tree.File]:
    return refused("LB019", message, Span(source, at, at), help="split the recipe, or say more with fewer rules")
