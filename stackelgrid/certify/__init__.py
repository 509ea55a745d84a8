"""Centralised references and equilibrium certificates, computed on a desk with everybody's secrets."""
