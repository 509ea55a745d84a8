"""Deployment: certificates and configurations for nodes on machines of their own, containers, an observer."""
