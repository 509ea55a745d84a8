"""The home: its private appliances and preferences, and the answers it gives to a price."""
