"""From a scenario on a desk to nodes on machines of their own: certificates, configurations, containers."""
