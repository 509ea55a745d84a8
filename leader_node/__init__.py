"""The utility company: it sets the price and decides when nobody wants to move."""
