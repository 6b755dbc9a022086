"""What breaks safesh on purpose: a fault campaign, failing system calls, fuzzers, hostile neighbours, a soak, races."""
