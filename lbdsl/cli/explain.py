"""`lbdsl explain`: help for a diagnostic code, an action, a metric or a word of the language. Never loads torch."""

from __future__ import annotations

import click

from lbdsl.cli import VERBS
from lbdsl.cli.completions import topics
from lbdsl.cli.options import json_option


@click.command()
@click.argument("words", nargs=-1, metavar="[TOPIC]", shell_complete=topics)
@json_option
def explain(words: tuple[str, ...], as_json: bool) -> None:
    """Explain a diagnostic code, an action, a metric or any other word of the language.

    TOPIC is a code (LB203), an action (swa), a metric (kl), a keyword (until), a setting (heal.lr), a fact (model.layers)
    or a type. Without TOPIC, all topics are listed.
    """
    from lbdsl.cli.output import output_style, print_json, writable
    from lbdsl.report import explain as view

    topic = " ".join(words)
    if not topic:
        if as_json:
            print_json({"format_version": view.FORMAT_VERSION, "topics": list(view.topics())})
        else:
            click.echo(writable(view.topics_text(output_style())), nl=False, color=True)
        return
    # Of a keyword of two words the first has the page.
    pages = view.pages_of(topic) or (view.pages_of(topic.split()[0]) if topic.split() else ())
    if not pages:
        from lbdsl.core.diagnostic import fail

        near = view.nearest_topics(topic)
        kinds = ", ".join(f"{kind} (`{names[0]}`)" for kind, names in view.topics_by_kind())
        hint = f"`lbdsl explain` lists all topics: {kinds}"
        if topic in VERBS:
            hint = f"`lbdsl {topic} --help` explains the command"
        elif near:
            hint = f"did you mean {' or '.join(f'`{name}`' for name in near)}?"
        raise fail("LB052", f"no help for `{topic}`", help=hint)
    if as_json:
        print_json({"format_version": view.FORMAT_VERSION, "pages": [page.to_json() for page in pages]})
    else:
        click.echo(writable(view.pages_text(pages, output_style())), nl=False, color=True)
