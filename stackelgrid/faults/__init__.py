"""Fault plans: seeded, and the same under the virtual clock and on real processes over MQTT."""
