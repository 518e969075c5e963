"""Explores the core exhaustively: every order of messages, losses, crashes and suspicions, within bounds."""
