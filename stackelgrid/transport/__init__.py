"""Transports carry messages between nodes: the base class, one in memory with virtual time, one over MQTT."""
