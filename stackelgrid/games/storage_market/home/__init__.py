"""A home of the storage market as its owner describes it: appliances that can be scheduled, and a battery."""

from stackelgrid.games.storage_market.home.appliances import Appliance, Interruptible, Uninterruptible
from stackelgrid.games.storage_market.home.market_home import Battery, MarketHome, StorageMarketHomes

__all__ = ["Appliance", "Battery", "Interruptible", "MarketHome", "StorageMarketHomes", "Uninterruptible"]
