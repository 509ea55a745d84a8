"""The parts that every node's process has: configuration, mailbox, log, ledger, status, start and end."""
