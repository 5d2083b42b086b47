"""Thin Ray adapters: one per arrow of the line."""
