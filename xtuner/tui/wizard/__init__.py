"""The guided launch: a core that knows questions, answers and checks, and the screens in front of it."""
