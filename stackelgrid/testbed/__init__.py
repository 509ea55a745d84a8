"""Scenario files, launching and supervising processes, fault plans and the run store."""
