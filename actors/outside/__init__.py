"""Who is no actor: people and programs that send, ask and decide."""
