//! Tests of the machine as a whole: tables of single gates, and scripted runs.

mod build;
mod criteria;
