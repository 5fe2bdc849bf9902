"""Random inputs, in process: whatever comes is taken or refused in one line."""
