"""What the demo chats are about: one module a topic, each with `dialogues()` built from a hand-written table."""
