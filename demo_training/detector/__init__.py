"""Trains, exports and judges the demo's detector, which finds drawn shapes by words of shape and colour."""
