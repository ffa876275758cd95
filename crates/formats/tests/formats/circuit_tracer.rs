//! circuit-tracer's sets of transcoders.
