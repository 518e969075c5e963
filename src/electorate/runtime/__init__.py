"""Drives the core in real time: asyncio, TCP, SQLite."""
