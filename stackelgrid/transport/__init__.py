"""Who carries messages between nodes: the base class, virtual time in memory, MQTT."""
