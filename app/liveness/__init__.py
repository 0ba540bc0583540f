"""How alive machines are: `pulse` learns a machine's rhythm and clock, `pulses` keeps what was learned, `watcher` goes
on learning and tells who has gone silent."""
