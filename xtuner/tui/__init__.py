"""Screens (Textual): the wizard and the dashboard will live here."""
