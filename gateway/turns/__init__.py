"""Turns: from an accepted order, through Coze's answer, to the last event in the log."""
