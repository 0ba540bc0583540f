"""What happened, told in order: `outbox` keeps it with the data, `listener` hears of it, `fanout` gives it to subscribers."""
