"""`stackelgrid`, also as `python -m stackelgrid`: says what is missing where only an EMC was installed."""

import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    try:
        from stackelgrid import cli
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("stackelgrid"):
            raise
        print(f"stackelgrid needs {missing.name}: install the desk extra, pip install '.[desk]'", file=sys.stderr)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
