"""Messages between nodes: their models, their topics, and the codec between models and bytes."""
