"""Scenarios: the models of their files, the data they draw on, and the case studies that come with the package."""
