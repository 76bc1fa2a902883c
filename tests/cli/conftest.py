from commands import command, gantrain, train

__all__ = ["command", "gantrain", "train"]
