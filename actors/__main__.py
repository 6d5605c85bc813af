"""``tapeline`` and ``python -m actors``: the way in."""

import sys


def main() -> int:
    """Run the command line; return its exit code.

    Supervisors and actors take short cuts round the command-line library: nine of each start at once.
    """
    match sys.argv[1:]:
        case ["supervise", *arguments] if not {"-h", "--help"} & {*arguments}:
            from actors.runtime.supervisor import main as supervise  # noqa: PLC0415 - nothing else is needed

            return supervise(arguments)
        case ["run", role] | ["run", role, "--config", _] if not role.startswith("-"):
            from actors.cli.run import run_with  # noqa: PLC0415 - nothing else is needed

            return run_with(role, sys.argv[4:])
        case _:
            from actors.cli.app import main as cli  # noqa: PLC0415 - the two above must not wait for it

            return cli()


if __name__ == "__main__":
    sys.exit(main())
