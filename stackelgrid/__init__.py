"""What the nodes of a Stackelberg demand-response game share, and the testbed they are run on."""

import logging

# Who wants to see a log sets one up (stackelgrid.node.log); nobody else gets warnings on the terminal.
logging.getLogger(__name__).addHandler(logging.NullHandler())
