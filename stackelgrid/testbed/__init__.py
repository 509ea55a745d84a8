"""One run on this machine: node configurations, processes or memory, fault plans, the result and the run's folder."""
