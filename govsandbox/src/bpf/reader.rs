//! Reads the ring buffers of one sandbox.
