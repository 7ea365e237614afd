"""The derivation behind the experiment derive: its settings, the expressions of users, the LaTeX article."""
