//! Tests of the machine as a whole: tables of single gates, and scripted runs.

mod build;
mod crashes;
mod criteria;
mod failures;
mod findings;
mod gates;
mod ladder;
mod lineage;
mod reopening;
mod runs;
mod totality;
mod transitions;
