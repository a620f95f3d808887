"""The command line. Builds the parts of each process and hands over; holds no rules of its own."""
