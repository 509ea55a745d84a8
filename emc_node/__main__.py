"""`emc-node --config FILE`: one home energy management controller. Further commands set it up and show its status."""

import sys
from importlib import import_module

from emc_node.config import build, config_model
from stackelgrid.faults import inject_faults
from stackelgrid.node import process
from stackelgrid.text_file import set_up_console

COMMANDS = {
    "init": "emc_node.init",
    "install-service": "emc_node.service",
    "status": "emc_node.status",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the node, or one of `COMMANDS`; return the exit code."""
    set_up_console()
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in COMMANDS:
        return int(import_module(COMMANDS[words[0]]).main(words[1:]))
    if words and words[0] in ("-h", "--help"):
        print(f"other commands: {', '.join(f'emc-node {name}' for name in COMMANDS)}; see the --help of each\n")
    return process.main("emc-node", config_model, build, inject_faults, arguments)


if __name__ == "__main__":
    sys.exit(main())
