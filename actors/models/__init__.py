"""Language models: what is asked of them, who is asked, what becomes of an attempt, and what it costs."""
