"""Conversations: an answer, the work in the background, a chat, saved chats."""
