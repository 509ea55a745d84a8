"""Nodes, pages and logs that several test modules use."""
