"""What ``doctor`` looks at: the machine, the state folder, the configuration. Reads only, changes nothing."""
