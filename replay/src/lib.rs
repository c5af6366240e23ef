//! Recomputes every recorded decision of a log and compares.
