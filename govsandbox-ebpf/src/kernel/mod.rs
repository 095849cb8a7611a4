//! From a hook's arguments to facts, a decision and an event.

mod cache;
mod emit;
mod flow;
mod ground;
mod hooks;
mod lead;
mod maps;
mod object;
mod offsets;
mod pressure;
mod program;
mod socket;
mod socket_storage;
mod subject;
mod task_storage;
mod unix;
mod walk;
