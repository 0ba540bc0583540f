"""Simulated machines that talk to the service over its public HTTP API, as real ones do.

    noise     random numbers and wandering lines that any instant can be asked for        pure
    profiles  the three kinds of machine: signals, ranges, units, regimes; the fleet       pure
    faults    what can be injected, and what it does to which signal over what time        pure
    signals   a machine's readings at given instants                                       pure
    calls     the service's endpoints, with retries
    client    run_simulation: registers, fills in the history, goes on live

Nothing here imports the service, but for the root of its errors. A reading depends on the seed, the machine and the
instant only, so the same seed goes on with the same machines, run after run, at any rate.
"""
