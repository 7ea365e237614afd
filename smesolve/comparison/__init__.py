"""Weak error of an equation against its iteration: estimates, control variates, error budget, exact references."""
