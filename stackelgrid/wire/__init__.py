"""What travels: message models, topics, and the codec between models and bytes. Imports nothing of ours."""
