"""Mistakes, help and unusual spellings: click commands built from the grammar's table.

Imported only when the small parser passes. ``parse`` gives the same ``Parsed`` as it would,
so both roads lead to the same handlers. The pages that --help shows are ``manual``'s.
"""

from __future__ import annotations

import difflib
from typing import Any

from safesh import __version__
from safesh.cli import manual, render
from safesh.cli.grammar import GLOBAL_OPTIONS, VERBS, Option, Parsed, Verb, convert
from safesh.cli.vendor import add_site_packages
from safesh.errors import UsageError

add_site_packages()

import click  # noqa: E402


def parse(argv: list[str]) -> Parsed | int:
    """What the line asks for, or the exit status when help or the version was printed.

    UsageError (exit 2) says what is wrong and what was probably meant.
    """
    if "--no-color" in argv:
        render.set_plain(True)
    group = build()
    try:
        # Not group.main(): it would turn a broken pipe into an exit status of its own.
        with group.make_context(render.program(), argv) as ctx:
            result = group.invoke(ctx)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoSuchOption as error:
        raise _unknown_option(error) from None
    except click.UsageError as error:
        raise UsageError(_one_line(error.format_message()), place=_place(error), hint=_hint(error.ctx)) from None
    except click.ClickException as error:
        raise UsageError(_one_line(error.format_message())) from None
    except click.Abort:
        raise KeyboardInterrupt from None
    assert isinstance(result, (Parsed, int))
    return result


def build() -> click.Group:
    """The whole command line as a click group."""
    group = _Group(
        name="safesh",
        params=_global_parameters(),
        context_settings={"help_option_names": ["-h", "--help"]},
        invoke_without_command=True,
        no_args_is_help=False,
        callback=_show_help_without_verb,
    )
    for verb in VERBS.values():
        group.add_command(_Command(verb))
    return group


@click.pass_context
def _show_help_without_verb(ctx: click.Context, /, **_options: Any) -> int | None:
    if ctx.invoked_subcommand is not None:
        return None
    click.echo(ctx.get_help(), err=True)
    return UsageError.exit_code


class _Kind(click.ParamType):  # type: ignore[type-arg]  # generic since 8.4, not before
    """A kind of the grammar, with the grammar's own reading and words."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name = {"seconds": "duration", "count": "number"}.get(kind, kind)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default
            return value
        try:
            return convert(self.kind, value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _parameter(option: Option) -> click.Option:
    names = [option.name, *option.flags]
    if option.kind == "flag":
        return click.Option(names, is_flag=True, default=False, help=option.text)
    if option.kind == "texts":
        return click.Option(names, type=str, multiple=True, metavar=option.metavar, help=option.text)
    return click.Option(
        names, type=_Kind(option.kind), default=option.default, metavar=option.metavar, help=option.text
    )


def _global_parameters() -> list[click.Parameter]:
    return [*(_parameter(option) for option in GLOBAL_OPTIONS), _version_option()]


def _version_option() -> click.Option:
    def show(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(f"safesh {__version__}")
            ctx.exit()

    return click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=show, help="print the version"
    )


class _Command(click.Command):
    """One verb: parses like any click command, but answers with ``Parsed`` and helps like a manual page."""

    def __init__(self, verb: Verb) -> None:
        params: list[click.Parameter] = []
        if verb.choices:
            words = click.Choice([word for word, _text in verb.choices])
            params.append(click.Argument(["what"], required=False, type=words))
        if verb.target:
            many = verb.target == "many"
            params.append(
                click.Argument(["targets" if many else "target"], nargs=-1 if many else 1, required=False, type=str)
            )
        params += [_parameter(option) for option in verb.options]
        params += _global_parameters()
        super().__init__(verb.name, params=params, short_help=verb.summary)
        self.verb = verb

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self.verb.raw:
            ctx.params = {"argv": list(args), "config": None, "no_color": False}
            return []
        command: list[str] = []
        if self.verb.command and "--" in args:
            # Before click sees it: click drops the word that tells a target from a command.
            cut = args.index("--")
            args, command = args[:cut], args[cut + 1 :]
            if not command:
                raise click.UsageError("no command after --", ctx)
            if not any(not word.startswith("-") for word in args):
                raise click.UsageError(self._needs_name(), ctx)
        try:
            rest = super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click forgets it for an option without its value
            raise
        if self.verb.command:
            named = ctx.params["targets"] if self.verb.target == "many" else [ctx.params["target"] or ""]
            if command and (len(named) != 1 or not named[0]):
                raise click.UsageError(self._needs_name(), ctx)
            ctx.params["command"] = command
        return rest

    def _needs_name(self) -> str:
        if self.verb.target == "many":
            return "an ad hoc command needs a name: NAME -- CMD ARGS…"
        return f"what is it for? {self.verb.noun} -- ARGS…"

    def invoke(self, ctx: click.Context) -> Parsed:
        args = {name: list(value) if isinstance(value, tuple) else value for name, value in ctx.params.items()}
        before = ctx.parent.params if ctx.parent is not None else {}
        for option in GLOBAL_OPTIONS:  # given before the verb, unless given again after it
            if args[option.name] == option.default:
                args[option.name] = before.get(option.name, option.default)
        return Parsed(self.verb.name, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(manual.page(self.verb))


class _Group(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise manual.unknown_verb(args[0])
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(manual.overview())


def _unknown_option(error: click.exceptions.NoSuchOption) -> UsageError:
    verb = _verb_of(error.ctx)
    known = [flag for option in (*GLOBAL_OPTIONS, *(verb.options if verb else ())) for flag in option.flags]
    near = difflib.get_close_matches(error.option_name, [*known, "--help", "--version"], n=1, cutoff=0.5)
    return UsageError(
        f"there is no option {render.clean(error.option_name)}",
        place=_place(error),
        hint=f"did you mean {near[0]}? {_hint(error.ctx)}" if near else _hint(error.ctx),
    )


def _verb_of(ctx: click.Context | None) -> Verb | None:
    return VERBS.get(ctx.info_name or "") if ctx is not None and ctx.parent is not None else None


def _place(error: click.UsageError) -> str:
    verb = _verb_of(error.ctx)
    return verb.name if verb else ""


def _hint(ctx: click.Context | None) -> str:
    verb = _verb_of(ctx)
    return f"all about it: safesh {verb.name} --help" if verb else "all about it: safesh --help"


def _one_line(text: str) -> str:
    text = " ".join(text.split()).removesuffix(".")
    return text[:1].lower() + text[1:]
