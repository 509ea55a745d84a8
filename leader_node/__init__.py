"""The utility company: it sets prices, asks its aggregators what follows from them and decides when to settle."""
