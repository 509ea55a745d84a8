"""What every node's process has in common: its configuration, its mailbox, its logs, its way in and out."""
