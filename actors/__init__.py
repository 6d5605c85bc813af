"""Tapeline: real-time crypto market data as independent actors over Redis streams."""
