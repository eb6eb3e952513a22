"""Backtest: the real decision path over recorded sessions, with nobody called. What a policy would have cost."""
