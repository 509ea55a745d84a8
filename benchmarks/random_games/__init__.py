"""Small random games of `user_oriented` with known best prices: a yardstick of leaders."""
