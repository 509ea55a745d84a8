"""What the nodes of a Stackelberg demand-response game share, and the testbed they are run on."""
