"""Trains and judges the demo model on scenes it draws itself; not part of the package."""
