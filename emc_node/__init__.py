"""The home's process, the EMC (home energy management controller), and all that a Raspberry Pi needs for it."""
