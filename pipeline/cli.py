"""The ``hyperlearn`` command: its subcommands, and how whatever goes wrong reads."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from hyperlearn_dask.errors import InputError
from pipeline import asking, choosing, making, planning, serving

_FIND_WHAT_IS_DONE = {"run", "ingest", "graph", "train", "evaluate", "tune"}
_TRACEBACK = "HYPERLEARN_TRACEBACK"  # set it to see where an error of ours comes from


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hyperlearn-dask", prog_name="hyperlearn")
def cli() -> None:
    """Learn one representation of all entities of a multimodal hypergraph, and ask it things.

    \b
    A data set is a folder with a dataset.toml and raw tables. Begin with:
      hyperlearn run data/museum --out out/museum
      hyperlearn similar out/museum artist "Claude Monet"
      hyperlearn query out/museum subject --given artist="Claude Monet" --given decade=1870s
    """


for command in (
    *making.COMMANDS,
    *choosing.COMMANDS,
    *asking.COMMANDS,
    *serving.COMMANDS,
    *planning.COMMANDS,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, 2 for what the user can mend, 130 when interrupted, 1 for a bug."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that it ends as cleanly as Ctrl-C
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = cli.main(arguments, prog_name="hyperlearn", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        click.echo(help_wanted.format_message())
        return 0
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "hyperlearn"
        return _fail(f"{error.format_message()} (see: {command} --help)")
    except click.ClickException as error:
        return _fail(error.format_message())
    except InputError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        going_on = "; finished stages are kept, run the same command to go on" if _goes_on(arguments) else ""
        click.echo(f"Interrupted{going_on}", err=True)
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough. Python must not fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        file = os.fsdecode(error.filename) + ": " if isinstance(error.filename, str | bytes) else ""
        return _fail(file + (error.strerror or str(error)))
    except MemoryError:
        return _fail("not enough memory; --scheduler local or a cluster spreads the work over more machines")
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        _fail(f"this is a bug: {type(error).__name__}: {error} ({_TRACEBACK}=1 shows where)")
        return 1


def _goes_on(arguments: Sequence[str] | None) -> bool:
    given = sys.argv[1:] if arguments is None else arguments
    return bool(given) and given[0] in _FIND_WHAT_IS_DONE


def _fail(problem: str) -> int:
    click.echo("Error: " + " ".join(problem.split()), err=True)
    return 2


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
