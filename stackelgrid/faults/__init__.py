"""Faults: one seeded plan that means the same under the virtual clock and on real MQTT."""
