"""Widgets of the dashboard; each shows what it is given and knows no run, no file format and no other widget."""
